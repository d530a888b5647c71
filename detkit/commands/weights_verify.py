"""Compares weights with their hashes: the work of ``detkit weights verify``."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detkit.commands.parsers.weights_verify import parse_arguments
from detkit.registry import DataError
from detkit.utils.download import cache_folder, cache_path, cached, digests
from detkit.utils.mirror import read_manifest
from detkit.zoo import find, mirror_path, shown


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command: 0 if all are as they were fetched, else 1. Raises DataError for what was not fetched."""
    args, wrong = parse_arguments(argv), 0
    for path, record in list(_chosen(args.names, args.mirror)):
        found = digests(path)["sha256"] if path.is_file() else ""
        if found == record["sha256"]:
            print(f"right    {record['name']}  {path}")
            continue
        wrong += 1
        what = f"its SHA-256 begins with {found[:12]} and was {record['sha256'][:12]}" if found else "it is not there"
        again = "copy it again" if args.mirror else _fix(path, record["name"])
        print(f"WRONG    {record['name']}  {path}: {what}; {again}")
    return 1 if wrong else 0


def _fix(path: Path, name: str) -> str:
    """What fetches a file of the cache again; an address that has a key or a password is not written down."""
    weights, cache = find(name), path.parent.parent
    whole = weights is not None and path in [cache_path(address, cache) for address in weights.addresses]
    return f"detkit weights fetch --force '{name}'" if whole else "remove it, and it is fetched when it is asked for"


def _chosen(names: Sequence[str], mirror: Path | None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The files to look at, each with what is known of it."""
    cache = cache_folder()
    if mirror is not None:
        files = {mirror / where: entry for where, entry in read_manifest(str(mirror)).items()}
    else:
        files = cached(cache)
    place = f"the mirror {mirror} has no manifest or nothing in it" if mirror else f"nothing was fetched to {cache}"
    if not files:
        raise DataError(f"{place}; 'detkit weights {'pack' if mirror else 'fetch'} --help' says how")
    for name in names:
        weights = find(name)
        addresses = weights.addresses if weights else ()
        paths = [mirror / mirror_path(a) if mirror else cache_path(a, cache) for a in addresses]
        chosen = [path for path in paths if path in files]
        if not chosen:
            raise DataError(f"{shown(name)}: is not in {mirror or cache}; detkit weights fetch '{shown(name)}'")
        yield from ((path, files[path]) for path in chosen)
    if not names:
        yield from files.items()
