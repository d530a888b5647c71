"""Prediction: what a model says of one image."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from detkit.structures.instances import Instances


@dataclasses.dataclass(frozen=True)
class Segment:
    """A segment of a panoptic map.

    Args:
        id: its number in the map, above 0.
        class_index: its class: of an object one of the objects' classes, else one of the semantic map's.
        is_thing: whether it is one object; otherwise it is all that the image has of a class such as sky.
        score: 0 to 1; None where the model gives none.
        instance: the row of the prediction's instances that it is of; None where it is of none.
        crowd: in ground truth, whether it is a region of many objects, none of which is labelled.
    """

    id: int
    class_index: int
    is_thing: bool
    score: float | None = None
    instance: int | None = None
    crowd: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Panoptic:
    """A panoptic segmentation: each pixel belongs to one segment or to none.

    Args:
        ids: ``(H, W)`` int64, the id of each pixel's segment; 0 for none.
        segments: the segments of the map.
    """

    ids: Tensor
    segments: tuple[Segment, ...] = ()

    @property
    def semantic(self) -> Tensor:
        """``(H, W)`` uint8: the semantic map's class of each pixel, 0 for all things together, 255 for no segment."""
        table = torch.full((max([0, *(s.id for s in self.segments)]) + 1,), 255, dtype=torch.uint8)
        for segment in self.segments:
            table[segment.id] = 0 if segment.is_thing else segment.class_index
        return table.to(self.ids.device)[self.ids]

    def to(self, device: torch.device | str) -> "Panoptic":
        """The same on ``device``."""
        return Panoptic(self.ids.to(device), self.segments)


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one image, at the image's original size. What a model does not give is None.

    Args:
        instances: the objects, best first: ``boxes``, ``scores``, ``classes``, and ``masks``, ``keypoints`` or fields
            of a user's own where the model has heads for them.
        semantic: ``(H, W)`` int64, the class of each pixel, one of the semantic map's classes.
        panoptic: a segment for each pixel.
        num_cut: how many instances more the model has found, which its limit on their number has cut off. They score
            less than all that are there.
        file_name: the file, address or camera that the image was read from; empty for pixels that were given as such.
        frame: the image's number in a video or stream, from 0; None for an image by itself.
    """

    instances: Instances | None = None
    semantic: Tensor | None = None
    panoptic: Panoptic | None = None
    num_cut: int = 0
    file_name: str = ""
    frame: int | None = None

    def to(self, device: torch.device | str) -> "Prediction":
        """The same on ``device``."""
        parts = {"instances": self.instances, "semantic": self.semantic, "panoptic": self.panoptic}
        moved: Any = {name: None if part is None else part.to(device) for name, part in parts.items()}
        return dataclasses.replace(self, **moved)

    def above(self, score_thresh: float) -> "Prediction":
        """The same with only those instances that score at least ``score_thresh``."""
        if self.instances is None or "scores" not in self.instances:
            return self
        kept = self.instances[self.instances.scores >= score_thresh]
        return dataclasses.replace(self, instances=kept, num_cut=self.num_cut * (len(kept) == len(self.instances)))
