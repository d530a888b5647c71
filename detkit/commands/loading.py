"""The experiment that a command line names."""

import argparse

from detkit.experiment import Experiment, load_experiment, own_data


def load_given(args: argparse.Namespace) -> Experiment:
    """The experiment of CONFIG, overrides and ``--data``; says what was recognised there."""
    config, overrides = args.config_file, args.overrides
    if args.data is not None:
        options = {"format": args.format, "val_fraction": args.val_fraction, "class_names": args.classes}
        own = own_data(args.data, config, overrides, **options)
        config, overrides = own.config, own.overrides
        print(own.notes)
    return load_experiment(config, overrides, trust_imports=args.trust_imports)
