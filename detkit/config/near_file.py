"""The file that was meant by a path at which there is none."""

import contextlib
import difflib
import itertools
import os
from pathlib import Path

from detkit.registry import nearest

_MOST_FOLDERS = 300
"""So many are looked into: below a mistyped path there may lie a data set."""


def nearest_file(path: Path, *suffixes: str) -> Path | None:
    """The file that ``path``, which does not exist, was most probably meant to name; None where nothing is near.

    It is looked for in the last folder of ``path`` that does exist and in the folders below it. A file of the same
    name wins over one whose path is alike. ``suffixes`` are how the names of such files end.
    """
    present = next((folder for folder in path.parents if folder.is_dir()), None)
    if present is None:
        return None
    folders, files = [str(present)], list[Path]()
    for folder in itertools.islice(folders, _MOST_FOLDERS):  # the list grows while it is walked: near folders first
        with contextlib.suppress(OSError):  # one that may not be read
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if entry.name.endswith(suffixes) and entry.is_file():
                    files.append(Path(entry.path))
                elif not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    known = {str(file.relative_to(present)): file for file in files}
    same = [name for name, file in known.items() if file.name == path.name]
    wanted = str(path.relative_to(present))
    near = difflib.get_close_matches(wanted, same, n=1, cutoff=0.0)[0] if same else nearest(wanted, known)
    return None if near is None else known[near]
