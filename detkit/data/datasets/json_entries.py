"""The entries of a large JSON list, each decoded when it is looked at."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import msgspec

CHUNK = 4096
"""Entries that are decoded at a time."""


class JsonEntries(Sequence[Any]):
    """The entries of a JSON list that has been split, not decoded: so a file's objects are never all in memory.

    Args:
        raw: the text of each entry.
    """

    def __init__(self, raw: list[msgspec.Raw]):
        self._raw = raw
        self._start, self._entries = 0, list[Any]()

    def __len__(self) -> int:
        return len(self._raw)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"entry {index} of {len(self)}")
        if not self._start <= index < self._start + len(self._entries):
            self._start = index // CHUNK * CHUNK
            self._entries = decoded(self._raw[self._start : self._start + CHUNK])
        return self._entries[index - self._start]

    def __iter__(self) -> Iterator[Any]:
        return (entry for chunk in self.chunks() for entry in chunk)

    def chunks(self) -> Iterator[list[Any]]:
        """All entries, some thousands at a time."""
        for start in range(0, len(self), CHUNK):
            self[start]
            yield self._entries


class _Parts(msgspec.Struct, gc=False):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[dict[str, Any]]


def decoded(raw: list[msgspec.Raw]) -> list[Any]:
    """These texts as Python objects."""
    found: list[Any] = msgspec.json.decode(b"[" + b",".join(map(bytes, raw)) + b"]")
    return found


def split_coco(text: bytes) -> dict[str, Any] | None:
    """The lists of a COCO file with their entries still undecoded; None where it is not plainly one.

    That is also so for what only Python's own ``json`` takes, such as NaN.
    """
    try:
        parts = msgspec.json.decode(text, type=_Parts)
        for raws in (parts.images, parts.annotations):
            if any(bytes(memoryview(raw)[:1]) != b"{" for raw in raws):
                return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return {
        "images": JsonEntries(parts.images),
        "annotations": JsonEntries(parts.annotations),
        "categories": parts.categories,
    }
