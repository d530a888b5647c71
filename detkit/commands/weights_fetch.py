"""Fetches weights: the work of ``detkit weights fetch``."""

import sys
from collections.abc import Sequence

from detkit.commands.parsers.weights_fetch import parse_arguments
from detkit.utils.download import fetch_named
from detkit.utils.transfer import DownloadError
from detkit.zoo import shown


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command: 0 if all are there, else 1."""
    args, code = parse_arguments(argv), 0
    for name in args.names:
        try:
            print(f"{shown(name)}: {fetch_named(name, force=args.force)}")
        except DownloadError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 1
    return code
