"""ImageInfo: what is known of an image besides its pixels."""

import dataclasses

import torch
from torch import Tensor

from detkit.structures.boxes import Boxes

Window = tuple[int, int, int, int]
"""``(x1, y1, x2, y2)`` in whole pixels, half-open."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageInfo:
    """What is known of an image besides its pixels; it travels with the image's instances.

    Args:
        window: the part of the (padded) image that holds the picture; None: all of it.
        active_classes: ``(K,)`` bool, the classes that the image's dataset labels; None: all. An object of another
            class may be on the image without an annotation.
        crowds: ``(C, 4)`` boxes around crowds, in training, where the data keep them; None: nothing is known of any.
    """

    window: Window | None = None
    active_classes: Tensor | None = None
    crowds: Boxes | None = None

    def window_in(self, image_size: tuple[int, int]) -> Window:
        """The window, or where there is none the whole image of ``(height, width)``."""
        return (0, 0, image_size[1], image_size[0]) if self.window is None else self.window

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ImageInfo":
        """The same with its tensors on ``device``."""
        return self._with([None if t is None else t.to(device, non_blocking=non_blocking) for t in self._tensors()])

    def pin_memory(self) -> "ImageInfo":
        """The same with its tensors in page-locked memory."""
        return self._with([None if t is None else t.pin_memory() for t in self._tensors()])

    def _tensors(self) -> tuple[Tensor | None, Tensor | None]:
        return self.active_classes, self.crowds

    def _with(self, tensors: list[Tensor | None]) -> "ImageInfo":
        active, crowds = tensors
        return ImageInfo(self.window, active, None if crowds is None else Boxes(crowds))
