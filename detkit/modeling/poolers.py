"""RoI poolers: boxes of any size to features of one size."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from detkit.config import Count, CountOrZero, Interval, Positive
from detkit.layers import ShapeSpec, choose_features, crop_and_resize, roi_align
from detkit.modeling.interfaces import ROI_POOLERS, Features, RoIPooler
from detkit.modeling.points import grid_points, sample_features
from detkit.structures import Boxes


class PyramidPooler(RoIPooler):
    """Pools each box, by a subclass's ``pool``, from the pyramid's level that fits its size (FPN, Lin et al. 2017).

    A box of ``canonical_box_size`` goes to the level of stride 2 ** ``canonical_level``, one of half the size one
    level finer, rounded as ``level_rounding`` says, within the levels that there are. A single map has all boxes.

    Args:
        output_size: side of the pooled features.
        canonical_box_size: in pixels.
        canonical_level: log2 of the stride where boxes of that size are pooled.
        level_rounding: how a box between two levels is rounded: floor, to the finer one, or round, to the nearer one
            (halves to the even one).

    Raises:
        ValueError: no map, several maps whose strides are not consecutive powers of two, maps of different width, or
            an unknown rounding.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        output_size: Count,
        canonical_box_size: Positive,
        canonical_level: int,
        level_rounding: Literal["floor", "round"],
    ):
        super().__init__(input_shape)
        if level_rounding not in ("floor", "round"):
            raise ValueError(f"level_rounding: expected 'floor' or 'round', got {level_rounding!r}")
        self.in_features = tuple(input_shape)
        self.strides = [spec.stride for spec in input_shape.values()]
        levels = [math.log2(stride) for stride in self.strides]
        channels = {spec.channels for spec in input_shape.values()}
        consecutive = levels == [levels[0] + i for i in range(len(levels))] if levels else False
        if not consecutive or (len(levels) > 1 and levels[0] % 1) or len(channels) != 1:
            given = ", ".join(f"{n} ({s.channels} channels, stride {s.stride})" for n, s in input_shape.items())
            raise ValueError(
                "pooler: needs one map, or maps of one width whose strides are powers of two that double from one to"
                f" the next, got {given or 'none'}; choose them with in_features of the RoI heads"
            )
        self.min_level, self.max_level = int(levels[0]), int(levels[-1])
        self.output_size = output_size
        self.canonical_box_size, self.canonical_level = canonical_box_size, canonical_level
        self.level_rounding = level_rounding
        self.output_shape = ShapeSpec(channels.pop(), height=output_size, width=output_size)

    def pool(self, feature: Tensor, rois: Tensor, stride: int) -> Tensor:
        """The boxes of one level: ``(r, C, s, s)``.

        Args:
            feature: ``(N, C, H, W)``.
            rois: ``(r, 5)``: image index, x1, y1, x2, y2 in input pixels; sorted by image.
            stride: input pixels per feature pixel.
        """
        raise NotImplementedError

    def assign_levels(self, boxes: Tensor) -> Tensor:
        """``(R,)`` int64: which entry of the pyramid each of ``(R, 4)`` boxes is pooled from."""
        sizes = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        levels = self.canonical_level + torch.log2(sizes / self.canonical_box_size + 1e-8)
        levels = levels.round() if self.level_rounding == "round" else levels.floor()
        return levels.clamp(self.min_level, self.max_level).long() - self.min_level

    def forward(self, features: Features, boxes: Sequence[Boxes]) -> Tensor:
        """See ``RoIPooler.forward``."""
        maps = [features[name] for name in self.in_features]
        index = torch.cat([torch.full((len(b), 1), float(i), device=maps[0].device) for i, b in enumerate(boxes)])
        all_boxes = Boxes.cat(boxes)
        rois = torch.cat([index, all_boxes.tensor], dim=1)
        if len(maps) == 1 or not len(rois):
            return _in_graph(self.pool(maps[0], rois, self.strides[0]), maps[1:])
        levels = self.assign_levels(all_boxes)
        numbers = (levels[:, None] == torch.arange(len(maps), device=levels.device)).sum(0).tolist()
        rows = list(levels.argsort(stable=True).split(numbers))
        pooled = [
            self.pool(feature, rois[chosen], stride)
            for feature, stride, chosen in zip(maps, self.strides, rows)
            if len(chosen)
        ]
        result = pooled[0] if len(pooled) == 1 else _in_order(pooled, rows)
        return _in_graph(result, [feature for feature, chosen in zip(maps, rows) if not len(chosen)])


@ROI_POOLERS.register()
class RoIAlignPooler(PyramidPooler):
    """RoIAlign (Mask R-CNN, He et al. 2017) on the level that ``PyramidPooler`` chooses.

    Args:
        sampling_ratio: samples a bin and axis; 0 takes as many as the bin has feature pixels.
        aligned: true for pixel centres at half-integers (Detectron2); false for RoIAlign's first version, half a
            feature pixel off, with boxes of at least one feature pixel (torchvision's detectors).
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        output_size: Count,
        sampling_ratio: Annotated[int, Interval(0, 64)] = 0,
        canonical_box_size: Positive = 224.0,
        canonical_level: CountOrZero = 4,
        aligned: bool = True,
        level_rounding: Literal["floor", "round"] = "floor",
    ):
        super().__init__(input_shape, output_size, canonical_box_size, canonical_level, level_rounding)
        self.sampling_ratio, self.aligned = sampling_ratio, aligned

    def pool(self, feature: Tensor, rois: Tensor, stride: int) -> Tensor:
        """See ``PyramidPooler.pool``."""
        return roi_align(feature, rois, self.output_size, 1.0 / stride, self.sampling_ratio, self.aligned)


@ROI_POOLERS.register()
class CropAndResizePooler(PyramidPooler):
    """One bilinear sample a bin, the corner bins at the box's corners (TensorFlow's ``crop_and_resize``).

    As matterport's Mask R-CNN pools: boxes in pixels are divided by the size of the padded batch (map size times
    stride), so that its first and last pixel are the map's; a sample outside is 0. The level is chosen by
    ``PyramidPooler``.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        output_size: Count,
        canonical_box_size: Positive = 224.0,
        canonical_level: CountOrZero = 4,
        level_rounding: Literal["floor", "round"] = "round",
    ):
        super().__init__(input_shape, output_size, canonical_box_size, canonical_level, level_rounding)

    def pool(self, feature: Tensor, rois: Tensor, stride: int) -> Tensor:
        """See ``PyramidPooler.pool``."""
        height, width = feature.shape[-2] * stride, feature.shape[-1] * stride
        boxes = torch.stack([rois[:, 1::2] / width, rois[:, 2::2] / height], dim=2).flatten(1)
        return crop_and_resize(feature, boxes, rois[:, 0], self.output_size)


@ROI_POOLERS.register()
class PointPooler(RoIPooler):
    """One bilinear sample in the middle of each bin (PointRend, Kirillov et al. 2020); what is outside a map is 0.

    Boxes of every size are sampled from the same maps, whose channels are put one after the other.

    Args:
        output_size: side of the pooled features.
        in_features: the maps; null for the finest one.
    """

    def __init__(
        self, input_shape: dict[str, ShapeSpec], *, output_size: Count, in_features: tuple[str, ...] | None = None
    ):
        super().__init__(input_shape)
        shapes = choose_features(input_shape, in_features or tuple(input_shape)[:1], "pooler.in_features")
        pooled = [name for name, shape in shapes.items() if shape.height is not None]
        if pooled:
            raise ValueError(
                f"PointPooler: '{pooled[0]}' is pooled already, and points are taken from maps of the whole image;"
                " choose RoI heads that do not pool for their heads, such as StandardRoIHeads"
            )
        self.in_features, self.strides = tuple(shapes), [shape.stride for shape in shapes.values()]
        channels = sum(shape.channels for shape in shapes.values())
        self.output_shape = ShapeSpec(channels, height=output_size, width=output_size)

    def at(self, features: Features, boxes: Sequence[Boxes], points: Tensor) -> Tensor:
        """``(R, C, P)`` features at ``points`` (R, P, 2) in the boxes, see ``sample_features``."""
        return sample_features([features[name] for name in self.in_features], self.strides, boxes, points)

    def forward(self, features: Features, boxes: Sequence[Boxes]) -> Tensor:
        """See ``RoIPooler.forward``."""
        size, first = self.output_shape.height or 1, features[self.in_features[0]]
        return self.at(features, boxes, grid_points(sum(map(len, boxes)), size, first.device)).unflatten(
            2, (size, size)
        )


@ROI_POOLERS.register()
class RegionFeatures(RoIPooler):
    """Features that are pooled already, for heads that share them: of each box, in the boxes' order.

    ``Res5RoIHeads`` pools once and sends the result through its last stage; its heads start from that.

    Raises:
        ValueError: there is not exactly one feature, or it has no fixed height and width.
    """

    def __init__(self, input_shape: dict[str, ShapeSpec]):
        super().__init__(input_shape)
        if len(input_shape) != 1:
            raise ValueError(f"RegionFeatures: expected one feature that is pooled already, got {list(input_shape)}")
        ((self.in_feature, self.output_shape),) = input_shape.items()
        if self.output_shape.height is None or self.output_shape.width is None:
            raise ValueError(
                f"RegionFeatures: '{self.in_feature}' is a map of the image, not pooled to a fixed size;"
                " choose RoIAlignPooler here, or RoI heads that pool for their heads, such as Res5RoIHeads"
            )

    def forward(self, features: Features, boxes: Sequence[Boxes]) -> Tensor:
        """See ``RoIPooler.forward``."""
        pooled = features[self.in_feature]
        assert len(pooled) == sum(map(len, boxes)), "one row of features for each box"
        return pooled


def _in_graph(result: Tensor, unused: Sequence[Tensor]) -> Tensor:
    """A level without boxes still belongs to the graph: distributed training waits for every parameter's gradient."""
    return result + sum(feature[:0].sum() for feature in unused) if unused else result


def _in_order(pooled: list[Tensor], rows: list[Tensor]) -> Tensor:
    """The levels' results in the order of the boxes: one gather in channels-last layout, one scatter backward."""
    by_level = torch.cat([p.permute(0, 2, 3, 1) for p in pooled])
    return by_level[torch.argsort(torch.cat(rows))].permute(0, 3, 1, 2)
