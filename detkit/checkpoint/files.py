"""Files of torch.save: written atomically, read without running code and with their checksums compared."""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from detkit.checkpoint.pickles import PICKLED_NUMPY, refusal
from detkit.registry import DataError
from detkit.utils import atomic_write
from detkit.utils.file_checks import MOST_UNPACKED, check_torch_file
from detkit.utils.logging import first_line

_HARMLESS: list[Any] = [
    (argparse.Namespace, "argparse.Namespace"),
    *((PICKLED_NUMPY[name], name.replace(".core", core)) for name in PICKLED_NUMPY for core in (".core", "._core")),
]
"""What programs keep beside weights, such as options and numpy's numbers, that can only hold values."""


class _RecordingFile:
    """A file to write to that keeps the error of a failed write: torch reports one of its own bookkeeping instead."""

    error: OSError | None = None

    def __init__(self, file: IO[bytes]):
        self._file = file

    def write(self, data: bytes) -> int:
        """As the file's; raises its OSError, which stays in ``error``."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """As the file's."""
        self._file.flush()


def write_torch(content: Mapping[str, Any], path: Path) -> None:
    """Writes ``path`` by torch.save; it is complete or not there. Raises OSError where it cannot be written."""
    recording = None
    try:
        with atomic_write(path) as file:
            recording = _RecordingFile(file)
            torch.save(content, recording)  # type: ignore[arg-type]  # all that it asks for is write and flush
    except RuntimeError as error:
        if recording is None or recording.error is None:
            raise
        raise recording.error from error


def read_torch(path: str | os.PathLike[str], source: str) -> Any:
    """Reads tensors and plain data, on the CPU.

    Args:
        path: the local file.
        source: the file, for messages.

    Raises:
        DataError: it is damaged, or holds other objects than tensors and plain data; nothing of it has run.
    """
    try:
        check_torch_file(path)
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
        _check_storages(content, os.path.getsize(path))
        return content
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, ... depending on where the file ends
        refused = _refused(str(error))
        if refused:
            raise refusal(source, refused) from error
        raise DataError(
            f"{source}: cannot be read as a checkpoint ({first_line(error)}); it is damaged or incomplete."
            " Copy or download it again, or take an earlier checkpoint"
        ) from error


def _check_storages(content: Any, file_size: int) -> None:
    """Raises ValueError where tensors hold more bytes than their file can: torch 2.6 leaves the rest as memory was."""
    sizes: dict[int, int] = {}
    left, seen = [content], set()
    while left:
        value = left.pop()
        if id(value) in seen:  # a list may hold itself
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta:
            storage = value.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
    if sum(sizes.values()) > MOST_UNPACKED * file_size + (1 << 24):
        raise ValueError(f"its tensors are of {sum(sizes.values()):,} bytes, the file of {file_size:,}")


def _refused(message: str) -> str:
    """What torch's error refuses: the name of a global, or else its sentence; empty if it is about something else."""
    named = re.search(r"GLOBAL ([\w.]+\w)", message)
    if named:
        return named[1] if "." in named[1] else f"builtins.{named[1]}"
    sentence = re.search(r"(?:Trying|Unsupported|Can only|Unexpected)[^\n]+", message)
    return f"what torch refuses ({sentence[0]})" if sentence and "WeightsUnpickler" in message else ""
