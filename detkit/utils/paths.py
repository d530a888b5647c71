"""Paths: the one path manager, and files that are either whole or not there."""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from iopath.common.file_io import PathManager

from detkit.utils.download import HTTPHandler

path_manager = PathManager()
"""Turns what a user calls a file (a path, an http(s) address) into a local one: ``path_manager.get_local_path(p)``."""
path_manager.register_handler(HTTPHandler())


@contextlib.contextmanager
def naming_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within, an OSError that names no file, such as that of a full disk, gets the name of this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:  # else its own words would be lost
            error.filename = os.fspath(path)
        raise


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """A file to write to that takes the place of ``path`` when the block ends without an exception.

    Until then it lies beside ``path`` under another name, so a reader, a crash or a full disk never meets half a
    file: afterwards ``path`` is the old file or the new one. Folders that are missing are made.

    Args:
        path: the local file to write.
        mode: ``"wb"`` or ``"w"`` (UTF-8).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")  # its name has 255 bytes at most
    try:
        encoding = None if "b" in mode else "utf-8"
        with naming_file(path), open(temporary, mode.replace("w", "x"), encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Removes what ``atomic_write`` left in ``folder`` where a process was killed while it wrote; gives the files.

    Only for the one process that writes there: another's file that is being written looks the same.
    """
    left = [path for path in Path(folder).glob(".*.tmp") if _TEMPORARY.fullmatch(path.name)]
    for path in left:
        path.unlink(missing_ok=True)
    return left


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def _sync_folder(folder: Path) -> None:
    """Makes the renaming itself last through a power cut, where the platform can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
