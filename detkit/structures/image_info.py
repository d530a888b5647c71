"""ImageInfo: what is known of an image besides its pixels."""

import dataclasses

import torch
from torch import Tensor

Window = tuple[int, int, int, int]
"""``(x1, y1, x2, y2)`` in whole pixels, half-open."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageInfo:
    """What is known of an image besides its pixels; it travels with the image's instances.

    Args:
        window: the part of the (padded) image that holds the picture; None: all of it.
        active_classes: ``(K,)`` bool, the classes that the image's dataset labels; None: all. An object of another
            class may be on the image without an annotation.
    """

    window: Window | None = None
    active_classes: Tensor | None = None

    def window_in(self, image_size: tuple[int, int]) -> Window:
        """The window, or where there is none the whole image of ``(height, width)``."""
        return (0, 0, image_size[1], image_size[0]) if self.window is None else self.window

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ImageInfo":
        """The same with its tensor on ``device``."""
        if self.active_classes is None:
            return self
        return ImageInfo(self.window, self.active_classes.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "ImageInfo":
        """The same with its tensor in page-locked memory."""
        if self.active_classes is None:
            return self
        return ImageInfo(self.window, self.active_classes.pin_memory())
