"""Runs: where the pixels of objects lie, found in bitmaps of windows. N objects, R runs of them all."""

import dataclasses
from typing import Any

import numpy as np

from detkit.structures.rle import compress_counts

CHUNK_BITS = 2**19
"""Pixels whose runs are looked for at a time."""


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of object pixels of N bitmaps, each inside a window of one image, down the columns and left to right.

    Args:
        owner: ``(R,)`` which of the N objects a run is of, ascending.
        column: ``(R,)`` its column in the image.
        top, bottom: ``(R,)`` its rows in the image, half-open.
        num: N.
        image_size: ``(height, width)``.
    """

    owner: np.ndarray
    column: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    num: int
    image_size: tuple[int, int]

    @staticmethod
    def of(bits: np.ndarray, windows: np.ndarray, image_size: tuple[int, int]) -> "Runs":
        """Finds the runs of all objects at once.

        Args:
            bits: bool, all bitmaps one after the other, each column by column.
            windows: ``(N, 4)`` int64 x1, y1, x2, y2 of each bitmap, in whole pixels of the image.
            image_size: ``(height, width)``.
        """
        sizes = (windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1])
        stops = np.cumsum(sizes)
        none = np.zeros(0, np.int64)
        found: list[tuple[np.ndarray, ...]] = [(none, none, none, none)]
        start = 0
        while start < len(windows):  # as many at a time as the processor's cache holds
            begin = stops[start] - sizes[start]
            stop = max(start + 1, int(np.searchsorted(stops, begin + CHUNK_BITS, side="right")))
            owner, *places = _runs(bits[begin : stops[stop - 1]], windows[start:stop])
            found.append((owner + start, *places))
            start = stop
        owner, column, top, bottom = (np.concatenate(values) for values in zip(*found))
        return Runs(owner, column, top, bottom, len(windows), image_size)

    def areas(self) -> np.ndarray:
        """``(N,)`` float32 numbers of pixels."""
        return np.bincount(self.owner, self.bottom - self.top, self.num).astype(np.float32)

    def boxes(self) -> np.ndarray:
        """``(N, 4)`` float32 tight boxes; (0, 0, 0, 0) of an object without pixels."""
        out = np.zeros((self.num, 4), np.float32)
        begins = np.flatnonzero(np.diff(self.owner, prepend=-1))
        if len(begins):
            sides = (np.minimum.reduceat(v, begins) for v in (self.column, self.top))
            ends = (np.maximum.reduceat(v, begins) for v in (self.column + 1, self.bottom))
            out[self.owner[begins]] = np.stack([*sides, *ends], 1)
        return out

    def rle(self) -> list[dict[str, Any]]:
        """COCO compressed RLE of the whole image, counts as str; equal to what pycocotools makes of the bitmaps."""
        height, width = self.image_size
        start, end = self.column * height + self.top, self.column * height + self.bottom
        # a run that ends on the image's lower rim goes on where the next column begins
        stays = (end[:-1] != start[1:]) | (self.owner[:-1] != self.owner[1:])
        begins, ends = (np.append(True, stays)[: len(start)], np.append(stays, True)[: len(start)])
        bounds, owner = np.stack([start[begins], end[ends]], 1), self.owner[begins]
        counts, lengths = _counts(bounds, np.bincount(owner, minlength=self.num), height * width)
        return [{"size": [height, width], "counts": text} for text in compress_counts(counts, lengths)]


def _runs(bits: np.ndarray, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Owner, column, top and bottom of all runs, see ``Runs.of``."""
    widths, heights = windows[:, 2] - windows[:, 0], windows[:, 3] - windows[:, 1]
    offsets = np.append(0, np.cumsum(widths * heights))
    edges = np.append(0, np.cumsum(np.repeat(heights, np.where(heights > 0, widths, 0))))
    first, last = np.empty_like(bits), np.empty_like(bits)
    np.greater(bits[1:], bits[:-1], out=first[1:])
    np.greater(bits[:-1], bits[1:], out=last[:-1])
    first[edges[:-1]], last[edges[1:] - 1] = bits[edges[:-1]], bits[edges[1:] - 1]  # a run ends with its column
    starts, ends = np.flatnonzero(first), np.flatnonzero(last)
    owner = np.searchsorted(offsets, starts, side="right") - 1
    column, row = np.divmod(starts - offsets[owner], heights[owner])
    top = windows[owner, 1] + row
    return owner, windows[owner, 0] + column, top, top + ends + 1 - starts


def _counts(bounds: np.ndarray, runs: np.ndarray, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """COCO's counts of N objects with so many ``runs`` each, whose ``bounds`` (R, 2) are places among all pixels.

    Returns all counts, and how many each object has: those of its gaps and runs in turn, the last gap only if it has
    pixels.
    """
    places = np.zeros(int((2 * runs + 2).sum()), np.int64)
    stops = np.cumsum(2 * runs + 2)
    inner = np.ones(len(places), bool)
    inner[stops - 1] = inner[stops - 2 * runs - 2] = False
    places[inner] = bounds.reshape(-1)
    places[stops - 1] = pixels
    counts = np.diff(places)
    keep = np.ones(len(counts), bool)
    keep[stops[:-1] - 1] = False  # from one object to the next
    bare = (counts[stops - 2] == 0) & (runs > 0)
    keep[stops[bare] - 2] = False
    return counts[keep], 2 * runs + 1 - bare
