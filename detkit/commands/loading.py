"""The experiment that a command line names."""

import argparse

from detkit.experiment import Experiment, load_experiment, own_data


def load_given(args: argparse.Namespace) -> Experiment:
    """The experiment of CONFIG, overrides and ``--data``; says what was recognised there."""
    if args.data is None:
        return load_experiment(args.config_file, args.overrides, trust_imports=args.trust_imports)
    options = {"format": args.format, "val_fraction": args.val_fraction, "class_names": args.classes}
    own = own_data(args.data, args.config_file, args.overrides, trust_imports=args.trust_imports, **options)
    print(own.notes)
    return own.experiment()
