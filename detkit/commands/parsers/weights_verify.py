"""Compare fetched weights, or those of a mirror, with their hashes.

examples:
  all that is in the cache
    detkit weights verify

  a mirror that was copied to here
    detkit weights verify --mirror /data/weights
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import command_parser
from detkit.paths import local_path, path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("weights verify", __doc__)
    parser.add_argument(
        "names", nargs="*", type=path_or_address, metavar="NAME", help="a name or an address (default: all)"
    )
    parser.add_argument("--mirror", type=local_path, metavar="FOLDER", help="what 'detkit weights pack' wrote")
    return parser.parse_args(argv)
