"""Lists of lists as two flat arrays.

A dataset of a million annotations held as Python objects is copied into every loader worker, because counting
references writes to them. Arrays are not written to, so forked workers share them, and they pickle in one piece.
"""

import array
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


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

    @property
    def lengths(self) -> np.ndarray:
        """``(N,)`` how long each row is."""
        return np.diff(self.offsets)

    def select(self, keep: np.ndarray) -> "Ragged":
        """Only the rows where ``keep`` (N bools) is true."""
        return Ragged(self.data[np.repeat(keep, self.lengths)], offsets(self.lengths[keep]))

    @staticmethod
    def of_bytes(rows: Sequence[bytes]) -> "Ragged":
        """From strings of bytes, uint8; ``row.tobytes()`` gives them back."""
        return Ragged(np.frombuffer(b"".join(rows), np.uint8), offsets(map(len, rows)))

    @staticmethod
    def of_lists(lists: Sequence[Any]) -> "Ragged":
        """From Python's lists of numbers, float64; anything else becomes a single NaN.

        An ``array`` takes a list three times as fast as numpy does.
        """
        numbers, wrong = array.array("d"), set[int]()
        for i, values in enumerate(lists):
            try:
                numbers.fromlist(values)
            except (TypeError, OverflowError):
                numbers.append(math.nan)
                wrong.add(i)
        lengths = map(len, lists) if not wrong else (1 if i in wrong else len(row) for i, row in enumerate(lists))
        return Ragged(np.array(numbers, np.float64), offsets(lengths))

    @staticmethod
    def cat(pieces: "list[Ragged]", order: np.ndarray) -> "Ragged":
        """The rows of all pieces, which are numbered through, in that order; rows that it lacks are left out.

        The list is emptied on the way, so that no more than one piece is held twice.
        """
        lengths = np.concatenate([piece.lengths for piece in pieces])
        ends = offsets(lengths[order])
        starts = np.full(len(lengths), -1)
        starts[order] = ends[:-1]
        data, row = np.empty(int(ends[-1]), pieces[0].data.dtype), 0
        while pieces:
            piece = pieces.pop(0)
            own, size = starts[row : row + len(piece)], piece.lengths
            row += len(piece)
            if (own < 0).any():
                piece, size, own = piece.select(own >= 0), size[own >= 0], own[own >= 0]
            data[np.repeat(own - piece.offsets[:-1], size) + np.arange(len(piece.data))] = piece.data
        return Ragged(data, ends)


def offsets(lengths: Iterable[int]) -> np.ndarray:
    """``(N + 1,)`` int64: where each of N rows of these lengths begins, and where the last one ends."""
    if not isinstance(lengths, np.ndarray):
        lengths = np.fromiter(lengths, np.int64)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
