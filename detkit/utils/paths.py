"""Paths: the one path manager, and files that are either whole or not there."""

import contextlib
import os
import re
import secrets
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from iopath.common.file_io import PathManager

from detkit.utils.download import WeightsHandler


class Paths(PathManager):
    """iopath's, which takes ``file://`` too and the words before ``://`` in any case."""

    def get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        """The local file of a path, an address or a name of weights (see ``detkit.zoo``). Raises DownloadError."""
        path = os.fspath(path)
        scheme, separator, rest = path.partition("://")
        if separator and scheme.lower() == "file":
            return urllib.request.url2pathname(re.sub("^localhost/", "/", rest))
        return super().get_local_path(f"{scheme.lower()}://{rest}" if separator else path, force, **kwargs)


path_manager = Paths()
"""Turns what a user calls a file into a local one: ``path_manager.get_local_path(p)``."""
path_manager.register_handler(WeightsHandler())


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
