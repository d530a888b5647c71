"""RoI poolers: boxes of any size to features of one size."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detkit.layers import ShapeSpec, roi_align
from detkit.modeling.interfaces import ROI_POOLERS, Features, RoIPooler
from detkit.structures import Boxes


@ROI_POOLERS.register()
class RoIAlignPooler(RoIPooler):
    """RoIAlign (Mask R-CNN, He et al. 2017) on the pyramid level that fits the box (FPN, Lin et al. 2017, eq. 1).

    A box of ``canonical_box_size`` goes to the level of stride 2 ** ``canonical_level``, one of half the size one
    level finer, rounded down, within the levels that there are.

    Args:
        output_size: side of the pooled features.
        sampling_ratio: samples a bin and axis; 0 takes as many as the bin has feature pixels.
        canonical_box_size: in pixels.
        canonical_level: log2 of the stride where boxes of that size are pooled.

    Raises:
        ValueError: the strides are not consecutive powers of two.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        output_size: int,
        sampling_ratio: int = 0,
        canonical_box_size: float = 224.0,
        canonical_level: int = 4,
    ):
        super().__init__(input_shape)
        self.in_features = tuple(input_shape)
        self.scales = [1.0 / spec.stride for spec in input_shape.values()]
        levels = [math.log2(spec.stride) for spec in input_shape.values()]
        channels = {spec.channels for spec in input_shape.values()}
        if levels != [levels[0] + i for i in range(len(levels))] or levels[0] % 1 or len(channels) != 1:
            raise ValueError(
                "pooler: needs features of one width whose strides double from one to the next, got "
                + ", ".join(f"{n} ({s.channels} channels, stride {s.stride})" for n, s in input_shape.items())
            )
        self.min_level, self.max_level = int(levels[0]), int(levels[-1])
        self.output_size, self.sampling_ratio = output_size, sampling_ratio
        self.canonical_box_size, self.canonical_level = canonical_box_size, canonical_level
        self.output_shape = ShapeSpec(channels.pop(), height=output_size, width=output_size)

    def assign_levels(self, boxes: Boxes) -> Tensor:
        """``(R,)`` int64: which entry of the pyramid each box is pooled from."""
        sizes = boxes.area().sqrt()
        levels = torch.floor(self.canonical_level + torch.log2(sizes / self.canonical_box_size + 1e-8))
        return levels.clamp(self.min_level, self.max_level).long() - self.min_level

    def forward(self, features: Features, boxes: Sequence[Boxes]) -> Tensor:
        """See ``RoIPooler.forward``."""
        maps = [features[name] for name in self.in_features]
        image = torch.cat([torch.full((len(b), 1), float(i), device=maps[0].device) for i, b in enumerate(boxes)])
        everything = Boxes.cat(boxes)
        rois = torch.cat([image, everything.tensor], dim=1)
        levels = self.assign_levels(everything)
        rows = [torch.nonzero(levels == level).squeeze(1) for level in range(len(maps))]
        # A level without boxes still belongs to the graph: distributed training waits for every parameter's gradient.
        nothing = sum(feature[:0].sum() for feature, of_level in zip(maps, rows) if not len(of_level))
        pooled = [
            roi_align(feature + nothing, rois[of_level], self.output_size, scale, self.sampling_ratio)
            for feature, scale, of_level in zip(maps, self.scales, rows)
            if len(of_level)
        ]
        if len(pooled) == 1:
            return pooled[0]
        if not pooled:
            return roi_align(maps[0] + nothing, rois, self.output_size, self.scales[0], self.sampling_ratio)
        # One gather in channels-last layout restores the order; its backward pass is one scatter.
        by_level = torch.cat([p.permute(0, 2, 3, 1) for p in pooled])
        return by_level[torch.argsort(torch.cat(rows))].permute(0, 3, 1, 2)
