"""COCO run-length encodings: checked, because pycocotools decodes whatever it is given.

An RLE is ``{"size": [height, width], "counts": ...}``. The counts are the lengths of runs of 0, 1, 0, 1, ... down
the columns of the mask: a list (uncompressed) or a string (compressed).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask


def rle_counts(compressed: bytes) -> np.ndarray:
    """The run lengths in a compressed RLE string, int64.

    A number is written in groups of 5 bits, lowest first, each a character of 48 plus 32 where more follow; from the
    fourth number on it is the difference to the number two before.

    Raises:
        ValueError: the string is not such an encoding.
    """
    groups = np.frombuffer(compressed, np.uint8).astype(np.int64) - 48
    if len(groups) == 0:
        return groups
    last = groups & 32 == 0
    if groups.min() < 0 or groups.max() > 63 or not last[-1]:
        raise ValueError("its counts are not a compressed RLE string")
    ends = np.flatnonzero(last)
    starts = np.r_[0, ends[:-1] + 1]
    position = np.arange(len(groups)) - np.repeat(starts, ends - starts + 1)
    if position.max() > 6:
        raise ValueError("its counts hold a number beyond 32 bits")
    numbers = np.add.reduceat((groups & 31) << (5 * position), starts)
    negative = groups[ends] & 16 != 0
    numbers[negative] -= 1 << (5 * (position[ends][negative] + 1))
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def region_of_rle(compressed: bytes, height: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """What ``rle_of_region`` took: the bitmap ``(h, w)`` inside the mask's tight box, and that box, x1, y1, x2, y2.

    Nothing is laid out beyond the box. An empty mask gives (0, 0, 0, 0).

    Args:
        compressed: a compressed RLE string.
        height: of the image.
    """
    edges = np.cumsum(rle_counts(compressed))
    first, last = edges[: len(edges) // 2 * 2].reshape(-1, 2).T - [[0], [1]]  # pixels of each run, column by column
    first, last = first[last >= first], last[last >= first]
    if not len(first):
        return np.zeros((0, 0), bool), (0, 0, 0, 0)
    (left, top), (right, bottom) = np.divmod(first, height), np.divmod(last, height)
    x1, x2 = int(left[0]), int(right[-1]) + 1
    spans = (left != right).any()  # a run that goes on in the next column reaches both rims
    y1, y2 = (0, height) if spans else (int(top.min()), int(bottom.max()) + 1)
    sides = np.stack([(left - x1) * (y2 - y1) + top - y1, (right - x1) * (y2 - y1) + bottom - y1 + 1], 1)
    lengths = np.diff(sides.reshape(-1), prepend=0, append=(x2 - x1) * (y2 - y1))
    bits = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return bits.reshape(x2 - x1, y2 - y1).T, (x1, y1, x2, y2)


def rle_of_region(bitmap: np.ndarray, x: int, y: int, size: tuple[int, int]) -> dict[str, Any]:
    """The compressed RLE, counts as str, of a mask of which only a region is kept.

    Args:
        bitmap: ``(h, w)`` bool, the region's pixels; fast where it is stored column by column.
        x, y: where the region's corner lies in the image.
        size: ``(height, width)`` of the image.
    """
    height, width = size
    padded = np.zeros((bitmap.shape[1], bitmap.shape[0] + 2), np.int8)  # so that every run ends with its column
    padded[:, 1:-1] = bitmap.T
    column, row = np.divmod(np.flatnonzero(np.diff(padded.reshape(-1))), padded.shape[1])
    begins, ends = ((x + column) * height + y + row).reshape(-1, 2).T  # in pixels of the image, column by column
    apart = ends[:-1] != begins[1:]  # else a run to the image's lower rim goes on in the next column
    bounds = np.stack([begins[np.append(True, apart)[: len(begins)]], ends[np.append(apart, True)[: len(ends)]]], 1)
    counts = np.diff(bounds.reshape(-1), prepend=0, append=height * width)
    counts = counts[:-1] if len(bounds) and counts[-1] == 0 else counts
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


def as_rle(segmentation: Any, size: tuple[int, int]) -> Any:
    """A mask of an image of ``size`` (height, width), in any of COCO's forms, as one compressed RLE."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    return coco_mask.frPyObjects(segmentation, *size) if isinstance(segmentation["counts"], list) else segmentation


def checked_rle(rle: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The RLE in its compressed form, counts as bytes.

    Args:
        rle: either form.
        size: ``(height, width)`` that it must have.

    Raises:
        ValueError: it has another size, or its runs do not fill exactly that size.
    """
    if not isinstance(rle, Mapping) or not {"size", "counts"} <= rle.keys():
        raise ValueError("an RLE is a mapping with 'size' and 'counts'")
    height, width = size
    given, counts = rle["size"], rle["counts"]
    if not isinstance(given, list | tuple) or list(given) != [height, width]:
        raise ValueError(f"its RLE is of size {str(given)[:60]} (height, width), its image of {[height, width]}")
    if isinstance(counts, str | bytes):
        if len(counts) > 7 * (height * width + 2):
            raise ValueError(f"its counts have {len(counts)} characters, more than runs of all pixels could")
        compressed = counts.encode("latin-1", "replace") if isinstance(counts, str) else bytes(counts)
        runs = rle_counts(compressed)
    else:
        runs, compressed = np.asarray(counts if isinstance(counts, list | tuple | np.ndarray) else None), b""
        if runs.ndim != 1 or not np.issubdtype(runs.dtype, np.integer):
            raise ValueError("its RLE counts are neither a string nor a list of integers of at most 64 bits")
    if len(runs) and runs.min() < 0:
        raise ValueError(f"its RLE has a run of {int(runs.min())} pixels")
    inside = len(runs) > 0 and runs.max() <= height * width  # so that their sum cannot overflow
    if not inside or runs.sum(dtype=np.int64) != height * width:
        total = sum(map(int, runs[:1_000_000]))
        raise ValueError(f"the runs of its RLE sum up to {total:.12g} pixels; its image has {height * width}")
    if not compressed:
        uncompressed = {"size": [height, width], "counts": [int(n) for n in runs]}
        compressed = coco_mask.frPyObjects(uncompressed, height, width)["counts"]
    return {"size": [height, width], "counts": compressed}
