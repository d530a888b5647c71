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


def compress_counts(counts: np.ndarray, lengths: np.ndarray) -> list[str]:
    """The run lengths of many RLEs as compressed strings; the inverse of ``rle_counts``, for all at once.

    Args:
        counts: ``(C,)`` the run lengths of all RLEs, one after the other.
        lengths: ``(N,)`` how many of them each RLE has.
    """
    counts = counts.astype(np.int64)
    rows = np.repeat(np.cumsum(lengths) - lengths, lengths)  # where each number's RLE begins
    from_fourth = np.flatnonzero(np.arange(len(counts)) - rows > 2)
    numbers = counts.copy()
    numbers[from_fourth] -= counts[from_fourth - 2]
    size = np.ones(len(numbers), np.int64)  # groups of 5 bits, of which the last one's highest bit is the sign
    magnitude = np.where(numbers < 0, ~numbers, numbers)
    for group in range(1, 7):
        size += magnitude >= 1 << (5 * group - 1)
    ends = np.cumsum(size)
    text = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    for group in range(int(size.max(initial=0))):
        has = np.flatnonzero(size > group)
        more = size[has] > group + 1
        text[ends[has] - size[has] + group] = ((numbers[has] >> (5 * group)) & 31) + 32 * more + 48
    stops = np.concatenate([[0], ends])[np.cumsum(lengths)].tolist()
    whole = text.tobytes().decode("ascii")
    return [whole[start:stop] for start, stop in zip([0, *stops[:-1]], stops)]


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
    if list(rle["size"]) != [height, width]:
        raise ValueError(f"its RLE is of size {list(rle['size'])} (height, width), its image of {[height, width]}")
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        compressed = counts.encode("latin-1", "replace") if isinstance(counts, str) else bytes(counts)
        runs = rle_counts(compressed)
    else:
        runs = np.asarray(counts)
        if runs.ndim != 1 or not np.issubdtype(runs.dtype, np.integer):
            raise ValueError("its RLE counts are neither a string nor a list of integers")
        compressed = b""
    if len(runs) == 0 or runs.min() < 0 or runs.sum() != height * width:
        raise ValueError(f"the runs of its RLE sum up to {int(runs.sum())} pixels; its image has {height * width}")
    if not compressed:
        plain = {"size": [height, width], "counts": [int(n) for n in runs]}
        compressed = coco_mask.frPyObjects(plain, height, width)["counts"]
    return {"size": [height, width], "counts": compressed}
