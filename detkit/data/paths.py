"""Paths to data: found, or refused with what would be found."""

import difflib
import os
from pathlib import Path

from detkit.data.file_names import written_otherwise
from detkit.registry import DataError
from detkit.utils import path_manager

VARIABLE = "DETKIT_DATASETS"
"""The environment variable from which the project's configs take the folder of all datasets."""


def data_path(path: str, option: str, folder: bool) -> str:
    """The local path of what the user gave.

    Args:
        path: a path (``~`` is the home folder) or an http(s) address of a file.
        option: the option that it was given for, as messages say it, e.g. ``"CocoInstances.json_file"``.
        folder: whether it must be a folder, else a file.

    Raises:
        DataError: there is nothing of that kind. It names the absolute path, a near name beside it, and the
            environment variable where the path comes from one.
    """
    if "://" in path:
        try:
            path = path_manager.get_local_path(path)
        except OSError as error:
            raise DataError(f"{option}: {error}") from error
    if not path:
        raise DataError(f"{option}: is empty; give a {'folder' if folder else 'file'}, for example '.' for this folder")
    local = os.path.expanduser(path)
    if (os.path.isdir if folder else os.path.isfile)(local):
        return local
    kind, absolute = ("folder" if folder else "file"), os.path.abspath(local)
    what = f"is not a {kind}" if os.path.exists(local) else "does not exist"
    raise DataError(f"{option}: the {kind} '{absolute}' {what}.{_nearest(Path(absolute))}{_variable_hint(path)}")


def leaves_folder(folder: str, name: str) -> bool:
    """Whether ``name``, a path as it stands in a file of data, leads out of ``folder``. Links are followed freely."""
    if not os.path.isabs(name) and ".." not in name and not os.path.splitdrive(name)[0]:
        return False
    root = os.path.abspath(folder)
    return not os.path.normpath(os.path.join(root, name)).startswith(os.path.join(root, ""))


def _nearest(path: Path) -> str:
    """A sentence on where the path leaves what exists."""
    present = path.parent
    while not present.is_dir() and present != present.parent:
        present = present.parent
    if same := written_otherwise(str(present), str(path.relative_to(present))):
        return f" There is '{same}': the letters' case or Unicode form differs, or a backslash or %20 is in the way."
    try:
        names = sorted(entry.name for entry in os.scandir(present) if entry.name[0] != ".")
    except OSError:
        return ""
    missing = path.relative_to(present).parts[0]
    close = difflib.get_close_matches(missing, names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{present / close[0]}'?"
    return f" '{present}' holds no '{missing}'" + (f", but {', '.join(names[:8])}." if names else "; it is empty.")


def _variable_hint(path: str) -> str:
    folder = os.environ.get(VARIABLE)
    first = Path(path).parts[:1]
    if folder is None and first == ("datasets",):
        return f" The configs look for data under 'datasets'; set {VARIABLE} to your folder of datasets."
    if folder and path.startswith(folder):
        return f" (The environment variable {VARIABLE} is '{folder}'.)"
    return ""
