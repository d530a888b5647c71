"""Write a dataset of any format that is read here as COCO, YOLO, Pascal VOC or labels of a tool, images included.

examples:
  a LabelMe folder as YOLO, a fifth of it for validation
    detkit convert datasets/labelme datasets/yolo --to yolo --val-fraction 0.2

  whatever lies in a folder as COCO JSON, one file a part
    detkit convert datasets/mine datasets/coco --to coco

What a format cannot hold (crowds, keypoints, masks that overlap) is counted and said. Formats: docs/data_formats.md
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import LABEL_FORMATS, command_parser, fraction
from detkit.paths import local_path, output_folder


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("convert", __doc__)
    what = "a folder of data, or the file in it that describes it"
    parser.add_argument("source", type=local_path, metavar="IN", help=what)
    parser.add_argument("target", type=output_folder, metavar="OUT", help="a new folder")
    parser.add_argument("--to", required=True, metavar="NAME", help=f"the format to write: {LABEL_FORMATS}")
    parser.add_argument("--format", metavar="NAME", help="the format of IN (default: it is recognised)")
    parser.add_argument("--val-fraction", type=fraction, metavar="F", help="divide a folder without parts: 0.2 for val")
    parser.add_argument("--config-file", type=local_path, metavar="FILE", help="a YAML whose imports have formats")
    return parser.parse_args(argv)
