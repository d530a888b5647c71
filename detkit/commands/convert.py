"""Converts a dataset: the work of ``detkit convert``."""

from collections.abc import Sequence

from detkit.commands.parsers.convert import parse_arguments
from detkit.config import load_config
from detkit.data import open_dataset
from detkit.data.formats import LABEL_WRITERS
from detkit.data.formats.writing import write_dataset
from detkit.utils.logging import quiet


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    args = parse_arguments(argv)
    if args.config_file is not None:
        load_config(args.config_file)
    LABEL_WRITERS.with_key(args.to, "--to")  # before data are read
    whole = open_dataset(args.source, args.format, val_fraction=args.val_fraction)
    divided = args.val_fraction is not None and whole.divisible
    parts = {name: name for name in (("train", "val") if divided else whole.splits)}
    parts |= {"no_part": ""} if whole.has_rest and not divided else {}
    names, share = whole.class_names, args.val_fraction if divided else None
    with quiet("detkit.data"):  # it was said of the whole
        datasets = {
            part: open_dataset(args.source, args.format, split, val_fraction=share, class_names=names)
            for part, split in parts.items()
        } or {"train": whole}
    lost = write_dataset(datasets, args.target, args.to)
    found = ", ".join(f"{part} {len(dataset)}" for part, dataset in datasets.items())
    print(f"{whole.format} -> {args.to}: {args.target} (images: {found})")
    if args.val_fraction is not None and not divided:
        print(f"--val-fraction is not used: the parts {', '.join(whole.splits)} stay as they are")
    for words in whole.notes:
        print(f"{args.source}: {words}")
    for words in lost:
        print(f"not in {args.to}: {words}")
    return 0
