"""Sample: what the loader hands to the model."""

import dataclasses

import torch
from torch import Tensor

from detkit.structures.image_info import ImageInfo, Window
from detkit.structures.instances import Instances


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image as the model takes it.

    Args:
        image: ``(C, H, W)`` uint8, RGB, after augmentation.
        original_size: ``(height, width)`` of the image in its file; predictions are given in these pixels.
        image_id: the dataset's id of the image.
        file_name: where the image came from, for messages.
        target: the ground truth in the pixels of ``image``: ``boxes``, ``classes``, ``masks`` where the data has
            them, ``crowd`` where crowds are kept, ``annotation_ids`` for messages; None at prediction.
        window: ``(x1, y1, x2, y2)``: the part of ``image`` that holds the picture, where an augmentation padded it;
            None: all of it.
        active_classes: ``(K,)`` bool: the classes that the image's dataset labels; None: all.
    """

    image: Tensor
    original_size: tuple[int, int]
    image_id: int | str | None = None
    file_name: str = ""
    target: Instances | None = None
    window: Window | None = None
    active_classes: Tensor | None = None

    @property
    def info(self) -> ImageInfo:
        """Window and active classes, as they travel on with the image's instances."""
        return ImageInfo(self.window, self.active_classes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Sample":
        """The sample on ``device``."""
        return dataclasses.replace(
            self,
            image=self.image.to(device, non_blocking=non_blocking),
            target=None if self.target is None else self.target.to(device, non_blocking),
            active_classes=self.info.to(device, non_blocking).active_classes,
        )

    def pin_memory(self) -> "Sample":
        """The sample in page-locked memory (called by torch's DataLoader)."""
        return dataclasses.replace(
            self,
            image=self.image.pin_memory(),
            target=None if self.target is None else self.target.pin_memory(),
            active_classes=self.info.pin_memory().active_classes,
        )
