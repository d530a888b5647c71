"""ViewsModel: test-time augmentation, the detections of several views of an image as one prediction."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detkit.data import Augmentation, RandomFlip, ResizeShortestEdge
from detkit.modeling.meta_archs.features import FeatureModel
from detkit.modeling.postprocess import to_original_size
from detkit.ranges import Count
from detkit.registry import ConfigError
from detkit.structures import CropAndPad, Flip, Instances, Keypoints, Prediction, Resize, Sample, Transform
from detkit.views.tiled import AnyTiling, TiledModel, augmented, check_unchanged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """The views of an image from which it is predicted.

    Args:
        short_edge: lengths of the shorter side in pixels, a view each, in the place of the test augmentations; null:
            one view, after the test augmentations.
        max_size: the longer side's limit in pixels.
        flip: each view mirrored, too.
        batch_size: views a forward pass, which are padded to the largest of them. Detectron2 takes three.
    """

    short_edge: tuple[Count, ...] | None = None
    max_size: Count = 4000
    flip: bool = True
    batch_size: Count = 3

    def steps(self, own: Sequence[Augmentation]) -> list[tuple[bool, tuple[Augmentation, ...]]]:
        """Whether a view is mirrored, and what makes it of the image. ``own``: the test augmentations."""
        sizes: list[tuple[Augmentation, ...]] = [tuple(own)]
        if self.short_edge is not None:
            sizes = [(ResizeShortestEdge(short_edge=(side,), max_size=self.max_size),) for side in self.short_edge]
        mirror = RandomFlip(prob=1.0)
        return [(m, (*s, mirror) if m else s) for s, m in itertools.product(sizes, (False, True)[: 1 + self.flip])]


class ViewsModel(nn.Module):
    """Predicts several views of each image, at other sizes and mirrored, and merges what they show.

    The boxes of all views go through the model's own suppression and limit. Masks and keypoints are then predicted for
    the merged boxes in every view; mask probabilities and keypoints are means over the views. So are the logits of a
    semantic map, and the model's own ``joined`` makes a panoptic map of both.

    Args:
        model: a meta-architecture, in evaluation mode. What it knows of its classes is known here.
        views: how an image is seen.
        augmentations: those of test images.

    Raises:
        ConfigError: the model can neither look at given boxes nor give a semantic map's logits.
    """

    def __init__(self, model: nn.Module, views: Views, *, augmentations: Sequence[Augmentation] = ()):
        super().__init__()
        self.objects = isinstance(model, FeatureModel) and type(model).detections is not FeatureModel.detections
        self.maps = isinstance(model, FeatureModel) and type(model).semantic_logits is not FeatureModel.semantic_logits
        if not self.objects and not self.maps:
            raise ConfigError(
                f"data.test_views: {type(model).__name__} cannot merge several views of an image, which needs its"
                " detections or a semantic map's logits; write data.test_views=null"
            )
        assert isinstance(model, FeatureModel)
        self.model, self.steps, self.batch_size = model, views.steps(augmentations), views.batch_size
        self.class_names, self.category_ids = model.class_names, model.category_ids
        self.merge = getattr(model, "merge", None)

    @torch.no_grad()
    def forward(self, samples: list[Sample]) -> list[Prediction]:
        """One ``Prediction`` an image.

        Raises:
            ValueError: an image is not as it is in its file.
        """
        return [self._merged(sample) for sample in samples]

    def _merged(self, sample: Sample) -> Prediction:
        check_unchanged(sample, "views are made of", self)
        pixels = sample.image.permute(1, 2, 0).cpu().numpy()
        views = [augmented(pixels, sample.file_name, steps) for _, steps in self.steps]
        prediction = self._objects(views, sample.original_size) if self.objects else Prediction()
        return self.model.joined(prediction, self._semantic(views)) if self.maps else prediction

    def _semantic(self, views: list[Sample]) -> Tensor:
        """``(H, W)`` classes of the semantic map in the pixels of the image."""
        maps = (logits for batch in self._batches(views) for logits in self.model.semantic_maps(batch))
        seen = (values.flip(-1) if mirrored else values for values, (mirrored, _) in zip(maps, self.steps))
        return functools.reduce(torch.add, seen).argmax(0)  # the sum has the mean's classes

    def _objects(self, views: list[Sample], size: tuple[int, int]) -> Prediction:
        found = [instances for batch in self._batches(views) for instances in self.model.detections(batch)]
        places = [_Place.of(instances, size, mirrored) for instances, (mirrored, _) in zip(found, self.steps)]
        merged = self.model.choose(Instances.cat([place.back(boxes) for place, boxes in zip(places, found)]))
        given = [place.there(merged) for place in places]
        seen = [
            instances
            for batch, boxes in zip(self._batches(views), self._batches(given))
            for instances in self.model.described(batch, boxes)
        ]
        names = [name for name in seen[0].fields if name not in merged]
        fields = {name: _mean([place.field(view.fields[name]) for place, view in zip(places, seen)]) for name in names}
        return self.model.prediction(merged.with_fields(**fields), size)

    def _batches(self, items: list[Any]) -> Iterator[list[Any]]:
        yield from (items[i : i + self.batch_size] for i in range(0, len(items), self.batch_size))


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a view lies in the network's input, and how to get there from the image.

    Args:
        frame: instances without fields, in the pixels of the network.
        steps: from the pixels of the image to those of the network.
        mirrored: whether the view is a mirror image.
    """

    frame: Instances
    steps: tuple[Transform, ...]
    mirrored: bool

    @classmethod
    def of(cls, instances: Instances, original_size: tuple[int, int], mirrored: bool) -> "_Place":
        x1, y1, x2, y2 = instances.valid_region
        size = (y2 - y1, x2 - x1)
        mirror = (Flip(original_size),) if mirrored else ()
        steps = (*mirror, Resize(original_size, size), CropAndPad(size, -x1, -y1, *instances.image_size))
        return cls(Instances(instances.image_size, info=instances.info), steps, mirrored)

    def back(self, instances: Instances) -> Instances:
        """Detections of the view in the pixels of the image."""
        original_size = self.steps[0].input_size
        moved = to_original_size(instances, original_size)
        return moved.with_fields(boxes=moved.boxes.outlines(Flip(original_size))) if self.mirrored else moved

    def there(self, instances: Instances) -> Instances:
        """Detections in the pixels of the image in those of the network."""
        boxes = instances.boxes
        for step in self.steps:
            boxes = boxes.outlines(step)
        return Instances(self.frame.image_size, info=self.frame.info, **{**instances.fields, "boxes": boxes})

    def field(self, values: Any) -> Any:
        """What a head says of a box of the view, as it is in the image."""
        if isinstance(values, Keypoints):
            points = values.tensor
            for step in reversed(self.steps):
                inverse = step.inverse()
                points = torch.cat([inverse.coords(points[..., :2]), points[..., 2:]], dim=-1)
            return values.with_points(points[:, values.mirrored()] if self.mirrored else points)
        return values.flip(-1) if self.mirrored and values.ndim == 3 else values


def _mean(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Keypoints):
        return first.with_points(_mean([keypoints.tensor for keypoints in values]))
    return torch.stack(list(values)).mean(dim=0)


def as_tested(
    model: nn.Module,
    views: Views | None,
    tiling: AnyTiling | None,
    augmentations: Sequence[Augmentation],
    batch_size: int,
) -> nn.Module:
    """The model for images as they are in their files: in views, in tiles, or each tile in views."""
    if views is not None:
        model = ViewsModel(model, views, augmentations=augmentations)
        augmentations = ()
    if tiling is not None:
        model = TiledModel(model, tiling, augmentations=augmentations, batch_size=batch_size)
    return model
