"""ImageInfo: what is known of an image besides its pixels. ImageList: images of different sizes as a padded batch."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from detkit.structures.boxes import Boxes
from detkit.structures.transforms import Region


@dataclasses.dataclass(frozen=True, eq=False)
class ImageInfo:
    """What is known of an image besides its pixels; it travels with the image's instances.

    Args:
        valid_region: ``(x1, y1, x2, y2)``, the part of the (padded) image that is no padding; None: all of it.
        active_classes: ``(K,)`` bool, the classes that the image's dataset labels; None: all. An object of another
            class may be on the image without an annotation.
        crowds: ``(C, 4)`` boxes around crowds, in training, where the data keep them; None: unknown.
        num_cut: how many detections a limit on their number has cut off.
    """

    valid_region: Region | None = None
    active_classes: Tensor | None = None
    crowds: Boxes | None = None
    num_cut: int = 0

    def valid_region_in(self, image_size: tuple[int, int]) -> Region:
        """The valid region, or where none is known the whole image of ``(height, width)``."""
        return (0, 0, image_size[1], image_size[0]) if self.valid_region is None else self.valid_region

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ImageInfo":
        """The same with its tensors on ``device``."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "ImageInfo":
        """The same with its tensors in page-locked memory."""
        return self._moved(lambda tensor: tensor.pin_memory())

    def _moved(self, move: Callable[[Tensor], Tensor]) -> "ImageInfo":
        active = None if self.active_classes is None else move(self.active_classes)
        crowds = None if self.crowds is None else Boxes(move(self.crowds))
        return dataclasses.replace(self, active_classes=active, crowds=crowds)


@dataclasses.dataclass(frozen=True)
class ImageList:
    """A padded batch.

    Args:
        tensor: ``(N, C, H, W)`` float, normalised, padded on the right and at the bottom.
        image_sizes: ``(height, width)`` of each image without its padding.
        infos: what else is known of each image; None: nothing.
    """

    tensor: Tensor
    image_sizes: list[tuple[int, int]]
    infos: list[ImageInfo] | None = None

    @property
    def padded_size(self) -> tuple[int, int]:
        """``(H, W)`` of the batch, padding included."""
        return self.tensor.shape[-2], self.tensor.shape[-1]

    def info(self, index: int) -> ImageInfo:
        """What else is known of an image."""
        return ImageInfo() if self.infos is None else self.infos[index]

    def valid_region(self, index: int) -> Region:
        """``(x1, y1, x2, y2)``: the part of an image that is no padding; the whole image where none is known."""
        return self.info(index).valid_region_in(self.image_sizes[index])

    def __len__(self) -> int:
        return len(self.image_sizes)
