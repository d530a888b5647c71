"""Resizing into a padded canvas, with the picture in its middle."""

import dataclasses
from typing import Literal

import numpy as np

from detkit.data.augmentations.crop import pad_record
from detkit.data.augmentations.resize import resize_record
from detkit.data.interfaces import AUGMENTATIONS, Augmentation, Record

MULTIPLE = 64
"""Sides of the canvas divide by it, so that six halvings leave whole numbers."""


@AUGMENTATIONS.register()
class ResizeAndPad(Augmentation):
    """Scales an image up where it is small and centres it in a canvas; the record's ``window`` says where it lies.

    The input of matterport's Mask R-CNN. The aspect ratio is kept; an image is made smaller only to fit the square.

    Args:
        min_size: the shorter side is scaled up to this many pixels; it is never scaled down to it. 0: not scaled up.
        max_size: mode square: the canvas's side, a multiple of 64, which the longer side must fit into, even if the
            shorter one then stays below ``min_size``. The other modes have no limit.
        mode: square: padded to ``max_size`` by ``max_size``; pad64: each side padded to the next multiple of 64
            (``min_size`` must be one); none: the image stays as it is, neither resized nor padded.
        min_scale: modes square and pad64: the image is scaled at least by this factor.
        pad_value: the padding's value in all channels, 0 to 255, before the model subtracts its pixel_mean.
    """

    def __init__(
        self,
        *,
        min_size: int = 800,
        max_size: int = 1024,
        mode: Literal["square", "pad64", "none"] = "square",
        min_scale: float = 0.0,
        pad_value: int = 0,
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

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        if self.mode == "none":
            return record
        resized = resize_record(record, self._size(record.image.shape[0], record.image.shape[1]))
        height, width = resized.image.shape[:2]
        if self.mode == "square":
            canvas = (self.max_size, self.max_size)
        else:
            canvas = (-(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE)
        if resized.window is None:
            resized = dataclasses.replace(resized, window=(0, 0, width, height))
        return pad_record(
            resized, (canvas[1] - width) // 2, (canvas[0] - height) // 2, *canvas, pad_value=self.pad_value
        )

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """The ``(height, width)`` of the picture in the canvas."""
        scale = max(1.0, self.min_size / min(height, width), self.min_scale)
        if self.mode == "square" and round(max(height, width) * scale) > self.max_size:
            scale = self.max_size / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))
