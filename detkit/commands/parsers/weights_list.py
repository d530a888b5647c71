"""List the weights that have names, with the config that each belongs to.

A name stands wherever weights are given: train.init_weights, --weights, Predictor. Besides the listed ones there are
hf://ORG/REPO@REVISION/FILE and timm://NAME for every repository of huggingface.co, and addresses.

examples:
  all of torchvision's detectors
    detkit weights list 'torchvision://*RCNN*'

  what fits a config
    detkit weights list coco/mask_rcnn_R_50_FPN_3x
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import command_parser


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("weights list", __doc__)
    parser.add_argument(
        "pattern",
        nargs="?",
        default="",
        metavar="PATTERN",
        help="what is in names or configs, of any case; * is anything",
    )
    return parser.parse_args(argv)
