"""Augmentations that cut a part out of an image, or put it into a larger one."""

from typing import Literal

import numpy as np

from detkit.config import Count, Gray, Positive
from detkit.data.interfaces import AUGMENTATIONS, Augmentation, Record
from detkit.structures import CropAndPad, Transform


@AUGMENTATIONS.register()
class RandomCrop(Augmentation):
    """Cuts out a part of the image at a random place.

    Boxes become those of the visible masks (where there are no masks, they are cut), and what is not visible any more
    is dropped.

    Args:
        size: the part's height and width, as ``kind`` says.
        kind: relative: parts of the image's sides, 0 to 1; relative_range: those are the smallest, drawn up to 1;
            absolute: pixels; absolute_range: pixels from the first number to the second, drawn for each side.
    """

    def __init__(
        self,
        *,
        size: tuple[Positive, Positive],
        kind: Literal["relative", "relative_range", "absolute", "absolute_range"] = "relative_range",
    ):
        super().__init__()
        relative = kind.startswith("relative")
        is_wrong = not 0 < min(size) <= max(size) <= 1 if relative else min(size) < 1
        if is_wrong or (kind == "absolute_range" and size[0] > size[1]):
            expected = "parts in 0..1" if relative else "at least 1 pixel, and the smaller first for a range"
            raise ValueError(f"RandomCrop.size: {kind} expects {expected}, got {size}")
        self.size, self.kind = size, kind

    def transform(self, record: Record, rng: np.random.Generator) -> Transform:
        size = self._size(*record.size, rng)
        y, x = (int(rng.integers(side - cut + 1)) for side, cut in zip(record.size, size))
        return CropAndPad(record.size, x, y, *size)

    def _size(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
        first, second = self.size
        if self.kind == "absolute":
            return min(height, int(first)), min(width, int(second))
        if self.kind == "absolute_range":
            low, high = int(first), int(second)
            tall = rng.integers(min(height, low), min(height, high) + 1)
            return int(tall), int(rng.integers(min(width, low), min(width, high) + 1))
        if self.kind == "relative_range":
            first, second = (low + rng.random() * (1 - low) for low in self.size)
        return max(1, int(height * first + 0.5)), max(1, int(width * second + 0.5))


@AUGMENTATIONS.register()
class FixedSizeCrop(Augmentation):
    """Gives every image one size: what is larger is cut at a random place, what is smaller is padded right and below.

    Args:
        size: ``(height, width)`` in pixels.
        pad_value: the padding's value in all channels, 0 to 255; null: what is smaller stays as it is.
    """

    def __init__(self, *, size: tuple[Count, Count] = (1024, 1024), pad_value: Gray | None = 128):
        super().__init__()
        if min(size) < 1 or not 0 <= (pad_value or 0) <= 255:
            raise ValueError(f"FixedSizeCrop: size {size}, pad_value {pad_value} (expected 0..255)")
        self.size, self.pad_value = size, pad_value

    def transform(self, record: Record, rng: np.random.Generator) -> Transform:
        share = rng.random()
        y, x = (round(max(0, side - wanted) * share) for side, wanted in zip(record.size, self.size))
        if self.pad_value is None:
            return CropAndPad(record.size, x, y, *map(min, record.size, self.size))
        return CropAndPad(record.size, x, y, *self.size, self.pad_value)
