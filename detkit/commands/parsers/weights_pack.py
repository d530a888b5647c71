"""Write weights into a folder that can be carried to a machine without a network: a mirror.

There DETKIT_WEIGHTS_MIRROR=FOLDER gives them under their names. It has a file an address, as HOST/PATH, and a
manifest.json with their hashes. A web server that has the folder will do as well.

examples:
  two files, which are fetched first where the cache has them not
    detkit weights pack weights detectron2://ImageNetPretrained/MSRA/R-50 timm://resnet50.a1_in1k

  all that was fetched
    detkit weights pack weights
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import command_parser
from detkit.paths import output_folder, path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("weights pack", __doc__)
    parser.add_argument("folder", type=output_folder, metavar="FOLDER", help="a new one, or a mirror to add to")
    parser.add_argument(
        "names", nargs="*", type=path_or_address, metavar="NAME", help="a name or an address (default: all fetched)"
    )
    return parser.parse_args(argv)
