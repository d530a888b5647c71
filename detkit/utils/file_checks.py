"""Looking at files of pickles before anything reads them: damage, and what would take the machine."""

import io
import os
import pickle
import pickletools
import zipfile
from typing import IO, Any

MAX_DEPTH, _MAX_SIZE, _MAX_INSTRUCTIONS = 50, 1_000_000, 5_000_000
_LEAF = (0, 1)
"""Depth, and size when unfolded, of what holds nothing."""
_DIRECTORY = 0x10
"""The bit of a zip record's attributes that makes it a directory."""
MOST_UNPACKED = 8
"""Times a file's size that its records may have together: torch compresses nothing, and weights hardly can be."""
_LEGACY_PICKLES = 5
"""A file of before torch 1.6 begins with so many pickles."""


class Refused(pickle.UnpicklingError):
    """The pickle holds what is not read; the message names it."""


def check_torch_file(path: str | os.PathLike[str]) -> None:
    """Looks at a file of torch.save before torch does, which reads over flipped bits and bounds nothing.

    Raises:
        zipfile.BadZipFile: a record has another checksum than it says, or the records unpack to far more than the file.
        ValueError: a pickle in the file would take more than its size, see ``check_bounds``.
    """
    _compare_checksums(path)
    _check_pickles(path)


def is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as one of safetensors: the length of a header, which is JSON."""
    with open(path, "rb") as file:
        return file.read(9)[5:] == b"\0\0\0{"


def _compare_checksums(path: str | os.PathLike[str]) -> None:
    """Raises BadZipFile where a record has another checksum than it says: torch itself reads over flipped bits.

    Files that were written with checksums turned off (``torch.serialization.set_crc32_options``) have 0 for all.
    """
    if not zipfile.is_zipfile(path):
        return  # of before torch 1.6, or cut short: torch finds out
    with zipfile.ZipFile(path) as file:
        unpacked = sum(record.file_size for record in file.infolist())
        if unpacked > MOST_UNPACKED * os.path.getsize(path) + (1 << 24):
            raise zipfile.BadZipFile(f"it unpacks to {unpacked:,} bytes, which no weights do")
        if all(record.CRC == 0 for record in file.infolist()):
            return
        damaged = file.testzip()
        for record in file.infolist():  # a flipped bit that makes a directory of it, for which torch reads nothing
            if record.external_attr & _DIRECTORY:
                damaged = record.filename
    if damaged is not None:
        raise zipfile.BadZipFile(f"its record {damaged} has another checksum than it says")


def _check_pickles(path: str | os.PathLike[str]) -> None:
    """Raises ValueError where a pickle in the file would take more than its size, see ``check_bounds``."""
    with open(path, "rb") as stream:
        if stream.read(4) != b"PK\3\4":  # as torch decides: of before 1.6, some pickles, then the tensors' bytes
            stream.seek(0)
            for _ in range(_LEGACY_PICKLES):
                check_bounds(stream)
            return
    with zipfile.ZipFile(path) as file:
        for record in file.infolist():
            if record.filename.endswith("data.pkl"):
                if record.CRC == 0:  # written without checksums
                    del record.CRC
                check_bounds(io.BytesIO(file.read(record)))


def check_bounds(file: IO[bytes]) -> None:
    """Raises ValueError where the pickle that begins in ``file`` would take more than its size: of memory, by a high
    number in its memo, of the stack, or of time.

    Hashing nested tuples recurses without a limit, and goes through what they share each time, so their depth and
    their size when unfolded are followed here; ``stack`` and ``memo`` hold both for each value, and None for a mark.
    """
    stack: list[tuple[int, int] | None] = []
    memo: dict[Any, tuple[int, int]] = {}
    for number, (code, argument, _) in enumerate(pickletools.genops(file)):
        if number > _MAX_INSTRUCTIONS:
            raise ValueError(f"it has more than {_MAX_INSTRUCTIONS:,} instructions")
        if code.name.startswith("EXT"):
            raise Refused("an object of copyreg's extensions")
        if code.name.endswith(("PUT", "MEMOIZE")):
            index = len(memo) if argument is None else argument
            if not 0 <= index <= number:
                raise ValueError("it numbers its values wrongly")
            memo[index] = stack[-1] or _LEAF
            continue
        parts = [memo[argument]] if code.name.endswith("GET") else []
        taken = list(code.stack_before)
        if pickletools.markobject in taken:
            del taken[taken.index(pickletools.markobject) :]
            while (value := stack.pop()) is not None:
                parts.append(value)
        parts += [stack.pop() or _LEAF for _ in taken]
        is_tuple = code.name.startswith(("TUPLE", "FROZENSET"))
        depth = max([0, *(part[0] for part in parts)]) + is_tuple
        size = sum(part[1] for part in parts) if is_tuple else max([1, *(part[1] for part in parts)])
        if depth > MAX_DEPTH or size > _MAX_SIZE:
            raise ValueError(f"its tuples are nested more than {MAX_DEPTH} deep, or unfold to more than {_MAX_SIZE}")
        stack += [None if item is pickletools.markobject else (depth, size) for item in code.stack_after]
