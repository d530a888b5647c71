"""BiFPN: levels of a pyramid that are fused with learned weights, top-down and bottom-up, several times."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Count, Recipe
from detkit.layers import BN, ConvNorm, Norm, ShapeSpec, c2_xavier_fill
from detkit.modeling.interfaces import NECKS, Features, Neck, TopBlock
from detkit.modeling.necks.levels import check_doubling, level_name, select_maps, select_several, strides_of
from detkit.modeling.necks.top_blocks import LastLevelMaxPool


class Fusion(nn.Module):
    """The weighted mean of maps of one size, then a swish and a separable 3x3 convolution with its norm.

    The weights are positive and add up to one ("fast normalised fusion", equation 3 of the paper).

    Args:
        num_maps: how many maps are fused.
        channels: of each map, and of the result.
        norm: after the convolution; None for none.
    """

    def __init__(self, num_maps: int, channels: int, norm: Recipe[Norm] | None):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(num_maps))
        self.depthwise = ConvNorm(channels, channels, 3, groups=channels, bias=False, init=c2_xavier_fill)
        self.pointwise = ConvNorm(channels, channels, 1, norm=norm, init=c2_xavier_fill)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps ``(N, C, H, W)`` -> one of that shape."""
        weights = self.weights.relu()
        weights = weights / (weights.sum() + 1e-4)
        mean = sum((weight * value for weight, value in zip(weights, maps)), torch.zeros_like(maps[0]))
        return self.pointwise(self.depthwise(F.silu(mean)))


class BiFPNLayer(nn.Module):
    """One pass over the levels from the coarsest to the finest and back (figure 2d of the paper).

    Args:
        num_levels: L, at least 2.
        channels: of every level.
        norm: see ``Fusion``.
    """

    def __init__(self, num_levels: int, channels: int, norm: Recipe[Norm] | None):
        super().__init__()
        self.top_down = nn.ModuleList(Fusion(2, channels, norm) for _ in range(num_levels - 1))
        inner = [Fusion(3, channels, norm) for _ in range(num_levels - 2)]
        self.bottom_up = nn.ModuleList([*inner, Fusion(2, channels, norm)])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """L maps, finest first, each about half as large as the one before -> as many of the same shapes."""
        down = [maps[-1]]
        for level, fusion in reversed(list(zip(maps, self.top_down))):
            down.insert(0, fusion([level, F.interpolate(down[0], size=level.shape[-2:], mode="nearest")]))
        up = down[:1]
        for i, fusion in enumerate(self.bottom_up, start=1):
            inputs = [maps[i], down[i]] if i < len(maps) - 1 else [maps[i]]
            up.append(fusion([*inputs, F.max_pool2d(up[-1], kernel_size=3, stride=2, padding=1)]))
        return up


@NECKS.register()
class BiFPN(Neck):
    """Bidirectional feature pyramid (Tan, Pang, Le 2020, EfficientDet, arXiv:1911.09070, section 3).

    Each map goes through a 1x1 convolution, and ``top_block`` makes coarser ones of these. Then, ``repeats`` times, the
    levels are fused from the coarsest down and from the finest up again. Levels are called as those of ``FPN``. The
    paper's networks have 64 channels and 3 repeats (D0) to 384 and 8 (D7).

    Args:
        out_channels: channels of every level.
        in_features: the maps to use; null for all that the backbone gives.
        norm: normalisation after each convolution of 1x1; null for none, and convolutions with a bias.
        top_block: makes coarser levels, which are fused too; null for none.
        repeats: how many times.

    Raises:
        ValueError: an unknown map, fewer than two, or strides that do not double from level to level.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        out_channels: Count = 64,
        in_features: tuple[str, ...] | None = None,
        norm: Recipe[Norm] | None = Recipe(BN),
        top_block: Recipe[TopBlock] | None = Recipe(LastLevelMaxPool),
        repeats: Count = 3,
    ):
        super().__init__(input_shape)
        strides = strides_of(input_shape)
        self.check_strides(strides, {"in_features": in_features})
        shapes = {name: input_shape[name] for name in select_maps(strides, in_features)}
        self.laterals = nn.ModuleDict(
            {
                name: ConvNorm(shape.channels, out_channels, 1, norm=norm, init=c2_xavier_fill)
                for name, shape in shapes.items()
            }
        )
        own = {level_name(s.stride): ShapeSpec(channels=out_channels, stride=s.stride) for s in shapes.values()}
        self.top_block = None if top_block is None else top_block({**shapes, **own}, out_channels)
        self.output_shape = own if self.top_block is None else {**own, **self.top_block.output_shape}
        check_doubling([level.stride for level in self.output_shape.values()], "BiFPN")
        self.layers = nn.ModuleList(BiFPNLayer(len(self.output_shape), out_channels, norm) for _ in range(repeats))

    @classmethod
    def check_strides(cls, strides: Mapping[str, int], options: Mapping[str, Any]) -> None:
        """See ``Neck.check_strides``."""
        check_doubling([strides[n] for n in select_several(strides, options["in_features"], "BiFPN")], "BiFPN")

    def forward(self, features: Features) -> Features:
        """Maps of the backbone -> levels, each ``(N, out_channels, H/s, W/s)``."""
        own = [lateral(features[name]) for name, lateral in self.laterals.items()]
        levels = dict(zip(self.output_shape, own))
        if self.top_block is not None:
            levels.update(self.top_block({**features, **levels}))
        maps = list(levels.values())
        for layer in self.layers:
            maps = layer(maps)
        return dict(zip(levels, maps))
