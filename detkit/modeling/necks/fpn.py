"""Feature pyramid networks: top-down (FPN), and bottom-up once more (PAFPN)."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Count, Recipe
from detkit.layers import ConvNorm, Norm, ShapeSpec, c2_xavier_fill, numbered
from detkit.modeling.interfaces import NECKS, Features, Neck, TopBlock
from detkit.modeling.necks.levels import check_doubling, level_name, select_maps, select_several, strides_of
from detkit.modeling.necks.top_blocks import LastLevelMaxPool


@NECKS.register()
class FPN(Neck):
    """Feature pyramid network (Lin, Dollar, Girshick, He, Hariharan, Belongie 2017, arXiv:1612.03144).

    Each map goes through a 1x1 convolution; from the coarsest one down, it is upsampled (nearest) and added to the
    next finer one; a 3x3 convolution gives the level. A level is called ``p`` and the logarithm of its stride: maps of
    stride 4, 8, 16, 32 give ``p2`` .. ``p5``; of several maps of stride 32 the first gives ``p5``, the next ``p5_2``.
    Sides need not be multiples of anything: a map is upsampled to the size of the finer one.

    Args:
        out_channels: channels of every level.
        in_features: the maps to use; null for all that the backbone gives.
        norm: normalisation after each convolution; null for none, and convolutions with a bias.
        top_block: makes coarser levels, here p6; null for none.
        fuse: how the upsampled map meets the finer one: their sum or their mean.

    Raises:
        ValueError: an unknown map, no map, or a stride that is no power of two.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        out_channels: Count = 256,
        in_features: tuple[str, ...] | None = None,
        norm: Recipe[Norm] | None = None,
        top_block: Recipe[TopBlock] | None = Recipe(LastLevelMaxPool),
        fuse: Literal["sum", "avg"] = "sum",
    ):
        super().__init__(input_shape)
        if fuse not in ("sum", "avg"):
            raise ValueError(f"fuse: expected 'sum' or 'avg', got {fuse!r}")
        shapes = {name: input_shape[name] for name in select_maps(strides_of(input_shape), in_features)}
        self.laterals, self.outputs = nn.ModuleDict(), nn.ModuleDict()
        for name, shape in shapes.items():
            self.laterals[name] = ConvNorm(shape.channels, out_channels, 1, norm=norm, init=c2_xavier_fill)
            self.outputs[name] = ConvNorm(out_channels, out_channels, 3, norm=norm, init=c2_xavier_fill)
        strides = [shape.stride for shape in shapes.values()]
        self._levels = numbered(map(level_name, strides))
        self.output_shape = {
            name: ShapeSpec(channels=out_channels, stride=stride) for name, stride in zip(self._levels, strides)
        }
        self._fuse_weight = 0.5 if fuse == "avg" else 1.0
        self.top_block = None if top_block is None else top_block({**shapes, **self.output_shape}, out_channels)
        if self.top_block is not None:
            self.output_shape = {**self.output_shape, **self.top_block.output_shape}

    @classmethod
    def check_strides(cls, strides: Mapping[str, int], options: Mapping[str, Any]) -> None:
        """See ``Neck.check_strides``."""
        select_several(strides, options["in_features"], cls.__name__)

    def forward(self, features: Features) -> Features:
        """Maps of the backbone -> ``p2`` .. ``p6``, each ``(N, out_channels, H/s, W/s)``."""
        levels = dict(zip(self._levels, self.pyramid([features[name] for name in self.laterals])))
        if self.top_block is not None:
            levels.update(self.top_block({**features, **levels}))
        return levels

    def pyramid(self, maps: list[Tensor]) -> list[Tensor]:
        """The input maps, finest first -> one level each."""
        merged: list[Tensor] = []
        for x, lateral in zip(reversed(maps), reversed(list(self.laterals.values()))):
            y = lateral(x)
            if merged:
                y = y + F.interpolate(merged[-1], size=y.shape[-2:], mode="nearest")
                if self._fuse_weight != 1:
                    y = y * self._fuse_weight
            merged.append(y)
        return [output(y) for output, y in zip(self.outputs.values(), reversed(merged))]


@NECKS.register()
class PAFPN(FPN):
    """FPN with a second, bottom-up path (Liu, Qi, Qin, Shi, Jia 2018, PANet, arXiv:1803.01534, section 3.1).

    The finest level stays. From there up, a level goes through a 3x3 convolution of stride 2, is added to the FPN's
    next coarser level, and a 3x3 convolution gives the new one; both convolutions are followed by a ReLU. The options
    are those of ``FPN``.

    Raises:
        ValueError: as for ``FPN``, or strides that do not double from map to map.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        out_channels: Count = 256,
        in_features: tuple[str, ...] | None = None,
        norm: Recipe[Norm] | None = None,
        top_block: Recipe[TopBlock] | None = Recipe(LastLevelMaxPool),
        fuse: Literal["sum", "avg"] = "sum",
    ):
        super().__init__(
            input_shape, out_channels=out_channels, in_features=in_features, norm=norm, top_block=top_block, fuse=fuse
        )
        check_doubling([input_shape[name].stride for name in self.laterals], "PAFPN")
        self.downsamples, self.bottom_up_outputs = nn.ModuleDict(), nn.ModuleDict()
        relu = nn.ReLU(inplace=True)
        for name in list(self.laterals)[1:]:
            self.downsamples[name] = ConvNorm(
                out_channels, out_channels, 3, stride=2, norm=norm, activation=relu, init=c2_xavier_fill
            )
            self.bottom_up_outputs[name] = ConvNorm(
                out_channels, out_channels, 3, norm=norm, activation=relu, init=c2_xavier_fill
            )

    @classmethod
    def check_strides(cls, strides: Mapping[str, int], options: Mapping[str, Any]) -> None:
        """See ``Neck.check_strides``."""
        super().check_strides(strides, options)
        check_doubling([strides[name] for name in select_maps(strides, options["in_features"])], "PAFPN")

    def pyramid(self, maps: list[Tensor]) -> list[Tensor]:
        """See ``FPN.pyramid``."""
        top_down = super().pyramid(maps)
        levels = top_down[:1]
        for p, down, output in zip(top_down[1:], self.downsamples.values(), self.bottom_up_outputs.values()):
            levels.append(output(p + down(levels[-1])))
        return levels
