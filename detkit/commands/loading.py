"""What several commands begin with: the experiment that a command line names, its samples, its processes."""

import argparse
import itertools
import os
from collections.abc import Iterable, Iterator

from detkit.experiment import Experiment, load_experiment, own_data
from detkit.experiment.run import check_launch
from detkit.registry import ConfigError
from detkit.structures import Sample


def load_given(args: argparse.Namespace) -> Experiment:
    """The experiment of CONFIG, overrides and ``--data``; says what was recognised there."""
    if args.data is None:
        return load_experiment(args.config_file, args.overrides, trust_imports=args.trust_imports)
    options = {"format": args.format, "val_fraction": args.val_fraction, "class_names": args.classes}
    own = own_data(args.data, args.config_file, args.overrides, trust_imports=args.trust_imports, **options)
    print(own.notes)
    return own.experiment()


def first_samples(batches: Iterable[list[Sample]], num: int) -> Iterator[Sample]:
    """The first ``num`` samples of a loader; of that of a training those that it begins with."""
    return itertools.islice(itertools.chain.from_iterable(batches), num)


def check_processes_started(num_processes: int | None) -> None:
    """Raises ConfigError where ``--num-processes`` is not what a launcher has started; see also ``check_launch``."""
    check_launch()
    started = int(os.environ.get("WORLD_SIZE", 1))  # this is one of them
    if num_processes not in (None, started):
        raise ConfigError(f"--num-processes {num_processes}: torchrun has started {started}; take one of the two")
