"""Sample: what the loader hands to the model."""

import dataclasses

import torch
from torch import Tensor

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
            them; None at prediction.
    """

    image: Tensor
    original_size: tuple[int, int]
    image_id: int | str | None = None
    file_name: str = ""
    target: Instances | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Sample":
        """The sample on ``device``."""
        target = None if self.target is None else self.target.to(device, non_blocking)
        return dataclasses.replace(self, image=self.image.to(device, non_blocking=non_blocking), target=target)

    def pin_memory(self) -> "Sample":
        """The sample in page-locked memory (called by torch's DataLoader)."""
        target = None if self.target is None else self.target.pin_memory()
        return dataclasses.replace(self, image=self.image.pin_memory(), target=target)
