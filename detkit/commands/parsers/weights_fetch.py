"""Fetch weights into the cache, where everything that takes their name finds them.

The cache is below ~/.torch/iopath_cache ($FVCORE_CACHE). DETKIT_WEIGHTS_MIRROR, a folder or an address, is asked first.

examples:
    detkit weights fetch torchvision://MaskRCNN_ResNet50_FPN_Weights.COCO_V1 timm://resnet50.a1_in1k
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import command_parser
from detkit.paths import path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("weights fetch", __doc__)
    parser.add_argument("names", nargs="+", type=path_or_address, metavar="NAME", help="a name or an address")
    parser.add_argument("--force", action="store_true", help="also what is there already")
    return parser.parse_args(argv)
