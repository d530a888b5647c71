"""Mirroring."""

from typing import Literal

import numpy as np

from detkit.config import Fraction
from detkit.data.interfaces import AUGMENTATIONS, Augmentation, Record
from detkit.structures import Flip, Resize, Transform


@AUGMENTATIONS.register()
class RandomFlip(Augmentation):
    """Mirrors an image, or leaves it as it is, at random.

    Args:
        prob: how likely, 0 to 1.
        direction: horizontal swaps left and right; vertical swaps top and bottom.
    """

    def __init__(self, *, prob: Fraction = 0.5, direction: Literal["horizontal", "vertical"] = "horizontal"):
        super().__init__()
        if not 0 <= prob <= 1:
            raise ValueError(f"RandomFlip.prob: expected 0..1, got {prob}")
        self.prob, self.direction = prob, direction

    def transform(self, record: Record, rng: np.random.Generator) -> Transform:
        if rng.random() >= self.prob:
            return Resize(record.size, record.size)
        return Flip(record.size, self.direction)
