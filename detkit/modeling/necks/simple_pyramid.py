"""The pyramid of a network with one map (ViTDet)."""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any

from torch import nn

from detkit.config import Count, Length, Positive, Recipe
from detkit.layers import LN, ConvNorm, Norm, ShapeSpec, c2_xavier_fill, make_norm
from detkit.modeling.interfaces import NECKS, Features, Neck, TopBlock
from detkit.modeling.necks.levels import level_name, strides_of
from detkit.modeling.necks.top_blocks import LastLevelMaxPool

SCALES = (4.0, 2.0, 1.0, 0.5)


@NECKS.register()
class SimpleFeaturePyramid(Neck):
    """Every level from one map: enlarged by transposed convolutions or pooled, then a 1x1 and a 3x3 convolution.

    After Li, Mao, Girshick, He 2022 (ViTDet, arXiv:2203.16527, section 3). Levels are called as in ``FPN``.

    Args:
        out_channels: channels of every level.
        in_feature: the map to use; null for the coarsest.
        scales: sizes of the levels, finest first, as parts of the map's.
        norm: normalisation after each convolution; null for none, and convolutions with a bias.
        top_block: makes coarser levels, here p6; null for none.

    Raises:
        ValueError: there is no such map, scales other than neighbours among these, or a level whose stride is no
            power of two.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        out_channels: Count = 256,
        in_feature: str | None = None,
        scales: Annotated[tuple[Positive, ...], Length(1)] = SCALES,
        norm: Recipe[Norm] | None = Recipe(LN),
        top_block: Recipe[TopBlock] | None = Recipe(LastLevelMaxPool),
    ):
        super().__init__(input_shape)
        self.check_strides(strides_of(input_shape), {"in_feature": in_feature, "scales": scales})
        self._source = in_feature or list(input_shape)[-1]
        shape = input_shape[self._source]
        self.levels, self.output_shape = nn.ModuleDict(), {}
        for scale in scales:
            stride = int(shape.stride / scale)
            resize = _resize(shape.channels, scale, norm)
            width = shape.channels // max(int(scale), 1)
            convs = [
                ConvNorm(width, out_channels, 1, norm=norm, init=c2_xavier_fill),
                ConvNorm(out_channels, out_channels, 3, norm=norm, init=c2_xavier_fill),
            ]
            self.levels[level_name(stride)] = nn.Sequential(*resize, *convs)
            self.output_shape[level_name(stride)] = ShapeSpec(channels=out_channels, stride=stride)
        self.size_divisibility = max(level.stride for level in self.output_shape.values())
        self.top_block = None if top_block is None else top_block({**input_shape, **self.output_shape}, out_channels)
        if self.top_block is not None:
            self.output_shape = {**self.output_shape, **self.top_block.output_shape}

    @classmethod
    def check_strides(cls, strides: Mapping[str, int], options: Mapping[str, Any]) -> None:
        """See ``Neck.check_strides``."""
        source, scales = options["in_feature"] or list(strides)[-1], options["scales"]
        if source not in strides:
            raise ValueError(f"in_feature: there is no map '{source}'; choose one of {', '.join(strides)}")
        if not set(scales) <= set(SCALES) or any(fine != 2 * coarse for fine, coarse in itertools.pairwise(scales)):
            raise ValueError(f"scales: expected a part of 4, 2, 1, 0.5 without gaps, got {list(scales)}")
        for scale in scales:
            if strides[source] % scale:
                raise ValueError(f"scales: a map of stride {strides[source]} cannot be {scale:g} times as large")
            level_name(int(strides[source] / scale))

    def forward(self, features: Features) -> Features:
        """The backbone's map -> ``p2`` .. ``p6``, each ``(N, out_channels, H/s, W/s)``."""
        levels = {name: level(features[self._source]) for name, level in self.levels.items()}
        if self.top_block is not None:
            levels.update(self.top_block({**features, **levels}))
        return levels


def _resize(channels: int, scale: float, norm: Recipe[Norm] | None) -> list[nn.Module]:
    """The layers that bring a map to ``scale`` times its size; each that enlarges halves the channels."""
    if scale <= 1:
        return [] if scale == 1 else [nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True)]
    double: list[nn.Module] = [nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2)]
    if scale == 2:
        return double
    return [*double, make_norm(norm, channels // 2) or nn.Identity(), nn.GELU(), *_resize(channels // 2, 2.0, norm)]
