"""Writes weights as a mirror: the work of ``detkit weights pack``."""

from collections.abc import Sequence

from detkit.commands.parsers.weights_pack import parse_arguments
from detkit.registry import DataError
from detkit.utils.download import cache_folder, cached, fetch_named
from detkit.utils.mirror import MIRROR, pack


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Raises DataError where there is nothing to pack, DownloadError where something is amiss."""
    args = parse_arguments(argv)
    fetched = [fetch_named(name) for name in args.names]
    files = cached(cache_folder())
    unknown = [path for path in fetched if path not in files]
    if unknown:
        raise DataError(f"{unknown[0]}: its hash could not be noted beside it; set FVCORE_CACHE to a folder of yours")
    if args.names:
        files = {path: files[path] for path in fetched}
    if not files:
        raise DataError(f"nothing was fetched to {cache_folder()}; name what to pack")
    print("\n".join(map(str, pack(files, args.folder))))
    total = sum(record["size"] for record in files.values())
    print(f"{len(files)} files, {total / 1e6:,.0f} MB; where they are to be used: {MIRROR}={args.folder.resolve()}")
    return 0
