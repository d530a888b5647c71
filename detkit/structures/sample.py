"""Sample: what the loader hands to the model. FailedBatch: samples with an error of the loader."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detkit.structures.boxes import Boxes
from detkit.structures.image_list import ImageInfo
from detkit.structures.instances import Instances
from detkit.structures.transforms import Region


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image as the model takes it.

    Args:
        image: ``(C, H, W)`` uint8, RGB, after augmentation.
        original_size: ``(height, width)`` of the image in its file; predictions are given in these pixels.
        image_id: the dataset's id of the image.
        file_name: where the image came from, for messages.
        target: the ground truth in the pixels of ``image``: ``boxes``, ``classes``, ``masks`` where the data has
            them, ``crowd`` where crowds are kept and still among the rows, ``annotation_ids`` for messages; None at
            prediction.
        maps: values a pixel of ``image``, each ``(H, W)``, by name; none at prediction.
        valid_region: ``(x1, y1, x2, y2)``: the part of ``image`` that is no padding, where an augmentation padded it;
            None: all of it.
        active_classes: ``(K,)`` bool: the classes that the image's dataset labels; None: all.
        crowds: boxes around the crowds that ``with_crowds_apart`` took out of the target; None: there was nothing to
            take.
        left_out: why objects of the image are not in the target -> the ids of their annotations.
    """

    image: Tensor
    original_size: tuple[int, int]
    image_id: int | str | None = None
    file_name: str = ""
    target: Instances | None = None
    maps: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    valid_region: Region | None = None
    active_classes: Tensor | None = None
    crowds: Boxes | None = None
    left_out: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)

    @property
    def info(self) -> ImageInfo:
        """Valid region, active classes and crowds, as they travel on with the image's instances."""
        return ImageInfo(self.valid_region, self.active_classes, self.crowds)

    def with_crowds_apart(self) -> "Sample":
        """Crowds are no objects: without them among the rows of the target, their boxes in ``info``.

        ``to`` and ``pin_memory`` do this first: on a GPU, counting them would be a device synchronisation.
        """
        if self.target is None or "crowd" not in self.target:
            return self
        crowd = self.target.crowd
        objects = self.target[~crowd].without("crowd")
        return dataclasses.replace(self, target=objects, crowds=Boxes(self.target.boxes[crowd]))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Sample":
        """The sample on ``device``, its crowds apart."""
        return self._moved(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Sample":
        """The sample in page-locked memory (called by torch's DataLoader), its crowds apart."""
        return self._moved(lambda value: value.pin_memory())

    def _moved(self, move: Callable[[Any], Any]) -> "Sample":
        apart = self.with_crowds_apart()
        info = move(apart.info)
        return dataclasses.replace(
            apart,
            image=move(self.image),
            target=None if apart.target is None else move(apart.target),
            maps={name: move(values) for name, values in self.maps.items()},
            active_classes=info.active_classes,
            crowds=info.crowds,
        )


class FailedBatch(list[Sample]):
    """A batch in which other images stand for one that cannot be read, which is the ``error``."""

    def __init__(self, samples: Iterable[Sample], error: Exception):
        super().__init__(samples)
        self.error = error
