"""Normalisers: what sums over all anchors are divided by. N images."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from detkit.config import Fraction, Positive
from detkit.modeling.interfaces import NORMALISERS, Normaliser


@NORMALISERS.register()
class MovingNormaliser(Normaliser):
    """The moving average of the number of anchors in a batch that learn an object (Detectron2): a batch with few of
    them, whose losses say little, weighs less. The average is saved with the weights.

    Args:
        start: what it begins at.
        momentum: the share of the average that stays at each step.

    Attributes:
        track_running_stats: false while a pass is no step of the training; see ``keep_running_statistics``.
    """

    only_detkits: ClassVar[Mapping[str, str]] = {"average": "begins at its start with another framework's weights"}
    average: Tensor

    def __init__(self, *, start: Positive = 100.0, momentum: Fraction = 0.9):
        super().__init__()
        self.momentum, self.track_running_stats = momentum, True
        self.register_buffer("average", torch.tensor(float(start)))

    def forward(self, num_foreground: Tensor) -> tuple[Tensor, Tensor | None]:
        """See ``Normaliser.forward``."""
        number = num_foreground.sum().clamp(min=1).to(self.average)
        average = self.average * self.momentum + number * (1 - self.momentum)
        if self.training and self.track_running_stats:
            self.average.copy_(average)
        return average.expand(len(num_foreground)), average


@NORMALISERS.register()
class BatchNormaliser(Normaliser):
    """The number of anchors in the batch that learn an object."""

    def forward(self, num_foreground: Tensor) -> tuple[Tensor, Tensor | None]:
        """See ``Normaliser.forward``."""
        number = num_foreground.sum().float()
        return number.clamp(min=1).expand(len(num_foreground)), number


@NORMALISERS.register()
class ImageNormaliser(Normaliser):
    """The number of anchors in the image that learn an object; the loss is the mean over the images (torchvision's
    RetinaNet). An object on an image with few of them weighs more."""

    def forward(self, num_foreground: Tensor) -> tuple[Tensor, Tensor | None]:
        """See ``Normaliser.forward``."""
        return num_foreground.clamp(min=1).float() * len(num_foreground), None
