"""Pooling with fixed counts: every level pools every box, those of other levels from beside its map."""

import torch
from torch import Tensor, nn

from detkit.export.static.dispatch import no_static_form, static_form
from detkit.layers.crop_and_resize import crop_pixels
from detkit.layers.roi_align import plain_roi_align
from detkit.modeling.interfaces import Features, RoIPooler
from detkit.modeling.points import grid_points, in_image, sample_maps
from detkit.modeling.poolers import CropAndResizePooler, PointPooler, PyramidPooler, RegionFeatures, RoIAlignPooler

OUTSIDE = (-1e5, -1e5, 1 - 1e5, 1 - 1e5)
"""A box of which no pixel is looked at."""

OneForAll = list[Tensor]
"""Boxes as a list of one: ``(N * P, 4)``, P of each image."""


class StaticPooler(RoIPooler):
    """A pooler of a model in its static form. Heads call it as they call the pooler itself.

    Args:
        pooler: the pooler.
    """

    def __init__(self, pooler: RoIPooler):
        nn.Module.__init__(self)
        self.pooler, self.output_shape = pooler, pooler.output_shape

    def maps(self, features: Features) -> list[Tensor]:
        """The maps that are pooled from."""
        return [features[name] for name in self.pooler.in_features]  # type: ignore[union-attr, has-type]


def _image_of(corners: Tensor, images: "int | torch.SymInt") -> Tensor:
    """``(R, 1)`` int64: which image each box is of, where all have as many."""
    index = torch.arange(images, device=corners.device)[:, None]  # type: ignore[arg-type]
    return index.expand(-1, corners.shape[0] // images).reshape(-1, 1)  # type: ignore[arg-type]


class StaticPyramidPooler(StaticPooler):
    """``PyramidPooler``. For a box of another level stands one of a pixel, far outside, which gives zeros."""

    def forward(self, features: Features, boxes: OneForAll) -> Tensor:  # type: ignore[override]
        """See ``RoIPooler.forward``."""
        (corners,), maps, pooler = boxes, self.maps(features), self.pooler
        assert isinstance(pooler, PyramidPooler)
        images, total = maps[0].shape[0], None
        index = _image_of(corners, images).to(corners.dtype)
        levels, sampled = pooler.assign_levels(corners), self._sampled(corners)
        for level, (feature, stride) in enumerate(zip(maps, pooler.strides)):
            own = (sampled if len(maps) == 1 else sampled & (levels == level))[:, None]
            rois = torch.where(own, corners, corners.new_tensor(OUTSIDE))
            pooled = self._pool(feature, torch.cat([index, rois], dim=1), stride)
            total = pooled if total is None else total + pooled
        assert total is not None
        return total

    def _sampled(self, corners: Tensor) -> Tensor:
        """``(R,)`` whether a box has samples. One without area may have none, of which engines take the mean."""
        pooler = self.pooler
        if isinstance(pooler, RoIAlignPooler) and pooler.aligned and pooler.sampling_ratio == 0:
            return (corners[:, 2:] > corners[:, :2]).all(dim=1)
        return torch.ones_like(corners[:, 0], dtype=torch.bool)

    def _pool(self, feature: Tensor, rois: Tensor, stride: int) -> Tensor:
        pooler = self.pooler
        if isinstance(pooler, RoIAlignPooler) and type(pooler).pool is RoIAlignPooler.pool:
            options = (pooler.output_size, 1.0 / stride, pooler.sampling_ratio, pooler.aligned)
            return plain_roi_align(feature, rois, *options)
        assert isinstance(pooler, PyramidPooler)
        return pooler.pool(feature, rois, stride)


class StaticCropPooler(StaticPooler):
    """``CropAndResizePooler``. All boxes are cut at once, each from its own level."""

    def forward(self, features: Features, boxes: OneForAll) -> Tensor:  # type: ignore[override]
        """See ``RoIPooler.forward``."""
        (corners,), maps, pooler = boxes, self.maps(features), self.pooler
        assert isinstance(pooler, CropAndResizePooler)
        levels, images = pooler.assign_levels(corners)[:, None], maps[0].shape[0]
        image = _image_of(corners, images)
        first = height = width = stride = torch.zeros_like(levels)
        pixels, start = [], 0
        for level, (feature, step) in enumerate(zip(maps, pooler.strides)):
            own, (rows, columns) = (levels == level).long(), feature.shape[-2:]
            first = first + own * (start + image * (rows * columns))
            height, width, stride = height + own * rows, width + own * columns, stride + own * step
            pixels.append(feature.permute(0, 2, 3, 1).flatten(0, 2))
            start = start + images * (rows * columns)
        parts = corners / (torch.cat([width, height, width, height], dim=1) * stride)
        return crop_pixels(torch.cat(pixels), parts, first, (height, width), pooler.output_size)


class StaticPointPooler(StaticPooler):
    """``PointPooler``."""

    def at(self, features: Features, boxes: OneForAll, points: Tensor) -> Tensor:
        """See ``PointPooler.at``."""
        (corners,), pooler = boxes, self.pooler
        assert isinstance(pooler, PointPooler)
        maps = self.maps(features)
        images, number = maps[0].shape[0], points.shape[1]
        pixels = in_image(corners, points).reshape(images, -1, 2)  # (N, P * points, 2)
        sampled = []
        for feature, stride in zip(maps, pooler.strides):
            height, width = feature.shape[2] * stride, feature.shape[3] * stride
            sampled.append(sample_maps(feature, torch.stack([pixels[..., 0] / width, pixels[..., 1] / height], dim=2)))
        found = torch.cat(sampled, dim=1)  # (N, C, P * points)
        return found.transpose(1, 2).reshape(corners.shape[0], number, -1).transpose(1, 2)

    def forward(self, features: Features, boxes: OneForAll) -> Tensor:  # type: ignore[override]
        """See ``RoIPooler.forward``."""
        size = self.output_shape.height or 1
        points = grid_points(boxes[0].shape[0], size, boxes[0].device)
        return self.at(features, boxes, points).unflatten(2, (size, size))


class StaticRegions(StaticPooler):
    """``RegionFeatures``."""

    def forward(self, features: Features, boxes: OneForAll) -> Tensor:  # type: ignore[override]
        """See ``RoIPooler.forward``."""
        pooler = self.pooler
        assert isinstance(pooler, RegionFeatures)
        return features[pooler.in_feature]


@static_form("forward", "pool", "at")
def static_pooler(pooler: RoIPooler) -> nn.Module:
    """What pools as ``pooler`` does, a fixed number of boxes an image. Register a pooler of your own here.

    Raises:
        ConfigError: there is no static form of it.
    """
    raise no_static_form(pooler, "static_pooler")


static_pooler.register(RoIAlignPooler)(StaticPyramidPooler)
static_pooler.register(CropAndResizePooler)(StaticCropPooler)
static_pooler.register(PointPooler)(StaticPointPooler)
static_pooler.register(RegionFeatures)(StaticRegions)


def with_static_poolers(model: nn.Module) -> None:
    """Puts static poolers in the place of all poolers, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, RoIPooler) and not isinstance(parent, StaticPooler):
                setattr(parent, name, static_pooler(child))
