#!/usr/bin/env python3
"""Write a dataset of any format that is read here as COCO, YOLO or Pascal VOC, images included.

examples:
  a LabelMe folder as YOLO, a fifth of it for validation
    python tools/convert_data.py datasets/labelme datasets/yolo --to yolo --val-fraction 0.2

  whatever lies in a folder as COCO JSON, one file a part
    python tools/convert_data.py datasets/mine datasets/coco --to coco

What a format cannot hold (crowds, keypoints, masks that overlap) is counted and said. Formats: docs/data_formats.md
"""

import argparse
import sys
from collections.abc import Sequence


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="IN", help="a folder of data, or the file in it that describes it")
    parser.add_argument("target", metavar="OUT", help="a new folder")
    parser.add_argument("--to", required=True, choices=("coco", "yolo", "voc"), help="the format to write")
    parser.add_argument("--format", metavar="NAME", help="the format of IN (default: it is recognised)")
    parser.add_argument("--val-fraction", type=float, metavar="F", help="divide a folder without parts: 0.2 for val")
    args = parser.parse_args(argv)
    if args.val_fraction is not None and not 0 < args.val_fraction < 1:
        parser.error(f"--val-fraction: expected a number between 0 and 1, got {args.val_fraction}")
    return args


if __name__ == "__main__":
    parse_arguments(None)  # so --help and mistakes are answered at once: what is imported from here on takes seconds

from detkit import command_line
from detkit.data import open_dataset
from detkit.data.formats.writing import write_dataset


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool."""
    args = parse_arguments(argv)
    whole = open_dataset(args.source, args.format, val_fraction=args.val_fraction)
    parts = whole.splits or (("train", "val") if args.val_fraction else ())
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


if __name__ == "__main__":
    sys.exit(command_line.run(main))
