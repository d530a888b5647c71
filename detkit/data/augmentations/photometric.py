"""Augmentations that change an image's colours and leave boxes and masks alone."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from detkit.config import Fraction, Interval, NonNegative
from detkit.data.interfaces import AUGMENTATIONS, Augmentation, Record


@AUGMENTATIONS.register()
class ColorJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue, each by a random amount, in random order.

    The operations are those of torchvision.transforms.v2.

    Args:
        brightness: the factor is drawn from 1 - this to 1 + this, at least 0.
        contrast: likewise.
        saturation: likewise.
        hue: the shift is drawn from -this to this, in turns of the colour circle, at most 0.5.
        prob: how likely an image is changed, 0 to 1.
    """

    def __init__(
        self,
        *,
        brightness: NonNegative = 0.2,
        contrast: NonNegative = 0.2,
        saturation: NonNegative = 0.2,
        hue: Annotated[float, Interval(0, 0.5)] = 0.0,
        prob: Fraction = 1.0,
    ):
        super().__init__()
        if min(brightness, contrast, saturation) < 0 or not 0 <= hue <= 0.5 or not 0 <= prob <= 1:
            raise ValueError(
                f"ColorJitter: brightness {brightness}, contrast {contrast}, saturation {saturation} (expected 0 or "
                f"more), hue {hue} (expected 0..0.5), prob {prob} (expected 0..1)"
            )
        self.amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        self.prob = prob

    def __call__(self, record: Record, rng: np.random.Generator, others: Sequence[Record] = ()) -> Record:
        if rng.random() >= self.prob:
            return record
        image = torch.from_numpy(np.ascontiguousarray(record.image)).permute(2, 0, 1)
        for name in rng.permutation(list(self.amounts)):
            amount = self.amounts[name]
            if amount == 0:
                continue
            if name == "hue":
                factor = rng.uniform(-amount, amount)
            else:
                factor = rng.uniform(max(0.0, 1 - amount), 1 + amount)
            image = getattr(functional, f"adjust_{name}")(image, factor)
        return dataclasses.replace(record, image=image.permute(1, 2, 0).contiguous().numpy())
