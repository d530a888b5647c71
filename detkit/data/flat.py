"""Lists of lists as two flat arrays.

A dataset of a million annotations held as Python objects is copied into every loader worker, because counting
references writes to them. Arrays are not written to, so forked workers share them, and they pickle in one piece.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class Ragged:
    """N rows of different lengths.

    Args:
        data: all rows, one after the other.
        offsets: ``(N + 1,)`` int64; row i is ``data[offsets[i]:offsets[i + 1]]``.
    """

    data: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.data[self.offsets[row] : self.offsets[row + 1]]

    @staticmethod
    def of(rows: Iterable[Sequence[float] | np.ndarray], dtype: npt.DTypeLike) -> "Ragged":
        """From any rows of numbers."""
        arrays = [np.asarray(row, dtype) for row in rows]
        return Ragged(np.concatenate(arrays) if arrays else np.zeros(0, dtype), offsets(len(a) for a in arrays))


@dataclasses.dataclass(frozen=True)
class Texts:
    """N strings as UTF-8 bytes in one array.

    Args:
        rows: the bytes of each string.
    """

    rows: Ragged

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> str:
        return self.rows[row].tobytes().decode("utf-8", "surrogateescape")

    @staticmethod
    def of(texts: Iterable[str]) -> "Texts":
        """From any strings."""
        rows = [text.encode("utf-8", "surrogateescape") for text in texts]
        return Texts(Ragged(np.frombuffer(b"".join(rows), np.uint8), offsets(map(len, rows))))


def offsets(lengths: Iterable[int]) -> np.ndarray:
    """``(N + 1,)`` int64: where each of N rows of these lengths begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(np.fromiter(lengths, np.int64))]).astype(np.int64)
