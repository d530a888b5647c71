"""Converts a dataset: the work of ``detkit convert``."""

from collections.abc import Sequence

from detkit.commands.parsers.convert import parse_arguments
from detkit.data import open_dataset
from detkit.data.formats.writing import write_dataset


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    args = parse_arguments(argv)
    whole = open_dataset(args.source, args.format, val_fraction=args.val_fraction)
    divided = args.val_fraction is not None and len(whole.splits) < 2
    parts = ("train", "val") if divided else whole.splits
    names = whole.class_names
    datasets = {
        part: open_dataset(args.source, args.format, part, val_fraction=args.val_fraction, class_names=names)
        for part in parts
    } or {"train": whole}
    lost = write_dataset(datasets, args.target, args.to)
    found = ", ".join(f"{part} {len(dataset)}" for part, dataset in datasets.items())
    print(f"{whole.format} -> {args.to}: {args.target} (images: {found})")
    for words in lost:
        print(f"not in {args.to}: {words}")
    return 0
