"""Resizing and padding, with the image in the middle."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from detkit.config import Count, CountOrZero, Gray, NonNegative
from detkit.data.interfaces import AUGMENTATIONS, Augmentation, Record
from detkit.structures import Compose, CropAndPad, Resize, Transform

MULTIPLE = 64
"""Sides of the padded image divide by it, so that six halvings leave whole numbers."""


@AUGMENTATIONS.register()
class ResizeAndPad(Augmentation):
    """Scales an image up where it is small and pads it on all sides; the record's ``valid_region`` says where it lies.

    The input of matterport's Mask R-CNN. The aspect ratio is kept; an image is made smaller only to fit the square.

    Args:
        min_size: the shorter side is scaled up to this many pixels; it is never scaled down to it. 0: not scaled up.
        max_size: mode square: the padded image's side, a multiple of 64, which the longer side must fit into, even if
            the shorter one then stays below ``min_size``. The other modes have no limit.
        mode: square: padded to ``max_size`` by ``max_size``; pad64: each side padded to the next multiple of 64
            (``min_size`` must be one); none: the image stays as it is, neither resized nor padded.
        min_scale: modes square and pad64: the image is scaled at least by this factor.
        pad_value: the padding's value in all channels, 0 to 255, before the model subtracts its pixel_mean.
    """

    def __init__(
        self,
        *,
        min_size: CountOrZero = 800,
        max_size: Count = 1024,
        mode: Literal["square", "pad64", "none"] = "square",
        min_scale: NonNegative = 0.0,
        pad_value: Gray = 0,
    ):
        super().__init__()
        if min_size < 0 or max_size < 1 or min_scale < 0 or not 0 <= pad_value <= 255:
            raise ValueError(
                f"ResizeAndPad: expected no negative min_size or min_scale, max_size above 0 and pad_value in 0..255, "
                f"got {min_size}, {min_scale}, {max_size} and {pad_value}"
            )
        for used_in, name, value in (("square", "max_size", max_size), ("pad64", "min_size", min_size)):
            if mode == used_in and value % MULTIPLE:
                near = MULTIPLE * max(1, round(value / MULTIPLE))
                raise ValueError(
                    f"ResizeAndPad.{name}: mode {mode} needs a multiple of {MULTIPLE}, got {value}; take {near}"
                )
        self.min_size, self.max_size, self.mode = min_size, max_size, mode
        self.min_scale, self.pad_value = min_scale, pad_value

    def transform(self, record: Record, rng: np.random.Generator) -> Transform:
        if self.mode == "none":
            return Resize(record.size, record.size)
        height, width = size = self._size(*record.size)
        if self.mode == "square":
            padded = (self.max_size, self.max_size)
        else:
            padded = (-(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE)
        x, y = -((padded[1] - width) // 2), -((padded[0] - height) // 2)
        return Compose([Resize(record.size, size), CropAndPad(size, x, y, *padded, self.pad_value)])

    def __call__(self, record: Record, rng: np.random.Generator, others: Sequence[Record] = ()) -> Record:
        if self.mode != "none" and record.valid_region is None:
            record = dataclasses.replace(record, valid_region=(0, 0, record.size[1], record.size[0]))
        return super().__call__(record, rng, others)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """The ``(height, width)`` of the image without its padding."""
        scale = max(1.0, self.min_size / min(height, width), self.min_scale)
        if self.mode == "square" and round(max(height, width) * scale) > self.max_size:
            scale = self.max_size / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))
