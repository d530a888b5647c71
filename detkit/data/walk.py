"""Folders and all below them, behind symbolic links too."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from detkit.utils.run_folder import left_by_run

logger = logging.getLogger(__name__)


def walk(root: str | os.PathLike[str]) -> Iterator[tuple[str, list[str]]]:
    """Goes through a folder and those below it. Links to folders are followed, after all that can be reached without.

    Each folder is gone into once, however many links lead to it. Hidden files and folders are left out, and what a run
    of detkit has left; so are links to a folder above ``root`` or above the link itself, such as ``/``, behind which
    everything would be gone through.

    Yields:
        The path of each folder below ``root`` with a ``/`` behind, "" for ``root`` itself, and the names of its files
        in order.
    """
    visited, waiting, top = set[str](), [os.fspath(root)], os.path.realpath(root)
    for start in waiting:  # which links are added to
        target = os.path.realpath(start)
        if start is not waiting[0] and target not in visited and _is_above(target, top, os.path.dirname(start)):
            logger.warning("%s: is left out, as it is a link to '%s', a folder above", start, target)
            continue
        for folder, folders, names in os.walk(start, onerror=_warn):
            real = os.path.realpath(folder)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            left = left_by_run(Path(folder), [*folders, *names])
            folders[:] = sorted(name for name in folders if name[0] != "." and name not in left)
            waiting += filter(os.path.islink, (os.path.join(folder, name) for name in folders))
            below = Path(folder).relative_to(root).as_posix()
            kept = sorted(name for name in names if name[0] != "." and name not in left)
            yield ("" if below == "." else f"{below}/"), kept


def _is_above(folder: str, *places: str) -> bool:
    """Whether a folder holds one of the places."""
    return any(os.path.commonpath([folder, real]) == folder for real in map(os.path.realpath, places))


def _warn(error: OSError) -> None:
    logger.warning("%s: is left out, as it cannot be read (%s)", error.filename, error.strerror)
