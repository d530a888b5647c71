"""The entries of a large JSON list, each decoded when it is looked at."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, overload

import msgspec

T = TypeVar("T")

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
        self._last: tuple[int, Any] = (-1, None)

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
        if self._start <= index < self._start + len(self._entries):
            return self._entries[index - self._start]
        if self._last[0] != index:
            self._last = (index, decoded([self._raw[index]])[0])
        return self._last[1]

    def __iter__(self) -> Iterator[Any]:
        return (entry for chunk in self.chunks() for entry in chunk)

    def chunks(self) -> Iterator[list[Any]]:
        """All entries, some thousands at a time."""
        for start in range(0, len(self), CHUNK):
            self._start, self._entries = start, decoded(self._raw[start : start + CHUNK])
            yield self._entries

    def chunks_of(self, kind: type[T]) -> Iterator[list[T] | None]:
        """As ``chunks``, as structs of that kind; None where an entry is none."""
        decoder = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        for start in range(0, len(self), CHUNK):
            try:
                yield decoder.decode(_joined(self._raw[start : start + CHUNK]))
            except msgspec.ValidationError:
                yield None


def chunks_of(entries: Sequence[Any], kind: type[T]) -> Iterator[tuple[range, list[T] | None]]:
    """Any entries some thousands at a time: which they are, and as structs of that kind, or None where one is none."""
    starts = range(0, len(entries), CHUNK)
    ranges = (range(start, min(start + CHUNK, len(entries))) for start in starts)
    if isinstance(entries, JsonEntries):
        return zip(ranges, entries.chunks_of(kind))
    return ((rows, _converted(entries[rows.start : rows.stop], kind)) for rows in ranges)


def _converted(entries: Sequence[Any], kind: type[T]) -> list[T] | None:
    try:
        return msgspec.convert(entries, list[kind])  # type: ignore[valid-type]
    except msgspec.ValidationError:
        return None


class _Parts(msgspec.Struct, gc=False):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[dict[str, Any]]


def decoded(raw: list[msgspec.Raw]) -> list[Any]:
    """These texts as Python objects."""
    text = _joined(raw)
    try:
        found: list[Any] = msgspec.json.decode(text)
    except msgspec.ValidationError:  # a number out of range such as 1e999, which is for the reader to name
        found = json.loads(text)
    return found


def _joined(raw: list[msgspec.Raw]) -> bytes:
    return b"[" + b",".join(map(bytes, raw)) + b"]"


def split_coco(text: bytes) -> dict[str, Any] | None:
    """The lists of a COCO file with their entries still undecoded; None where it is not plainly one.

    That is also so for what only Python's own ``json`` takes, such as NaN.
    """
    try:
        parts = msgspec.json.decode(text, type=_Parts)
        for raws in (parts.images, parts.annotations):
            if any(bytes(raw)[:1] != b"{" for raw in raws):
                return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return {
        "images": JsonEntries(parts.images),
        "annotations": JsonEntries(parts.annotations),
        "categories": parts.categories,
    }
