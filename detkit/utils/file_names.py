"""Names of files that are made of data: of a length and of characters that file systems take, no two alike."""

import hashlib
import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path

_MOST_BYTES = 100
"""Of a stem; file systems take 143 (eCryptfs) to 255 bytes, and a suffix or a number may follow."""
_HIDDEN_OR_DEVICE = re.compile(r"\.|$|(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""The latter are no files on Windows, whatever their suffix."""


def file_stem(words: object) -> str:
    """``words``, such as an image id, as the name of a file before its suffix, which every file system takes.

    It is made of letters, digits and ``_.-``; of one that would be too long a checksum takes the place of the end.
    Different words may have the same name: see ``FreeNames``.
    """
    stem = re.sub(r"[^\w.-]+", "_", str(words))
    if _HIDDEN_OR_DEVICE.match(stem):
        stem = f"_{stem}"
    if len(stem.encode()) <= _MOST_BYTES:
        return stem
    checksum = hashlib.sha256(str(words).encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{stem.encode()[:_MOST_BYTES].decode(errors='ignore')}-{checksum}"


class FreeNames:
    """Gives paths that it has not given before, also where a file system takes upper and lower case for one.

    A path that is taken gets a number after its stem; a name that leaves no room for one is shortened.

    Args:
        taken: paths that are never given.
        by_stem: whether paths that differ in nothing but their suffix count as one.
    """

    def __init__(self, taken: Iterable[Path] = (), *, by_stem: bool = False):
        self._by_stem = by_stem
        self._taken = {self._key(path) for path in taken}
        self._next: dict[str, int] = {}  # the number that is tried for what is taken

    def __call__(self, path: Path) -> Path:
        """``path``, or what is free instead."""
        if len(os.fsencode(path.name)) > 240:
            path = path.with_stem(file_stem(path.stem))
        key = self._key(path)
        if key in self._taken:
            numbers = itertools.count(self._next.get(key, 2))
            number, path = next(
                (n, other) for n in numbers if self._key(other := path.with_stem(f"{path.stem}_{n}")) not in self._taken
            )
            self._next[key] = number + 1
        self._taken.add(self._key(path))
        return path

    def _key(self, path: Path) -> str:
        return str(path.with_suffix("") if self._by_stem else path).casefold()
