"""Lists the weights that have names: the work of ``detkit weights list``."""

import textwrap
from collections.abc import Sequence

from tabulate import tabulate

from detkit.commands.parsers.weights_list import parse_arguments
from detkit.registry import DataError
from detkit.utils.download import cache_folder, cache_path
from detkit.zoo import known


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Raises DataError where nothing has the pattern."""
    args, cache = parse_arguments(argv), cache_folder()
    rows = [
        (
            weights.name,
            "fetched" if any(cache_path(address, cache).is_file() for address in weights.addresses) else "",
            "" if weights.size is None else f"{weights.size / 1e6:,.0f} MB",
            textwrap.shorten(weights.config or "", 170, placeholder=" ..."),
            weights.licence,
        )
        for weights in known(args.pattern)
    ]
    if not rows:
        raise DataError(f"no listed weights have '{args.pattern}' in name or config; 'detkit weights list' shows all")
    print(tabulate(rows, ("name", "", "size", "config", "licence"), colalign=("left", "left", "right")))
    return 0
