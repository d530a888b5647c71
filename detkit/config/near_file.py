"""The file that was meant by a path at which there is none."""

import collections
import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from detkit.registry import nearest

_MOST_FOLDERS = 300
"""So many are looked into, the nearest ones first: below a mistyped path there may lie a data set."""


def nearest_file(path: Path, *suffixes: str) -> Path | None:
    """The file that ``path``, which does not exist, was most probably meant to name.

    It is looked for in the last folder of ``path`` that does exist and in the folders below it. A file of the same
    name wins over one whose path is alike.

    Args:
        path: what was asked for.
        suffixes: how the names of such files end, e.g. ``".yaml", ".yml"``.

    Returns:
        Its path as it would be written in the place of ``path``; None where nothing is near.
    """
    present = next((folder for folder in path.parents if folder.is_dir()), None)
    if present is None:
        return None
    wanted = str(path.relative_to(present))
    known = [name for name in _files(present) if name.endswith(suffixes)]
    same = [name for name in known if os.path.basename(name) == path.name]
    if same:
        return present / difflib.get_close_matches(wanted, same, n=1, cutoff=0.0)[0]
    near = nearest(wanted, known)
    return None if near is None else present / near


def _files(top: Path) -> Iterator[str]:
    """The paths, relative to ``top``, of the files in it and below, those of near folders first."""
    folders = collections.deque([""])
    for _ in range(_MOST_FOLDERS):
        if not folders:
            return
        folder = folders.popleft()
        try:
            entries = sorted(os.scandir(top / folder), key=lambda entry: entry.name)
        except OSError:
            continue  # not ours to read
        for entry in entries:
            name = os.path.join(folder, entry.name)
            if entry.is_file():
                yield name
            elif not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                folders.append(name)
