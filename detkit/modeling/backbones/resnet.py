"""ResNet (He 2015) and ResNeXt (Xie 2017), laid out and named so that Detectron2's weights fit."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Count, Interval, Recipe
from detkit.layers import FrozenBN, Norm, ShapeSpec, freeze, same_pad
from detkit.modeling.backbones.layout import STAGES, Layout
from detkit.modeling.backbones.residual import ConvStyle, DeformConv
from detkit.modeling.interfaces import BACKBONES, Backbone, Features

StemPool = Literal["default", "same"]
"""How the stem's max pooling is padded; see ``Stem``."""


class Stem(nn.Module):
    """7x7 convolution and 3x3 max pooling, each of stride 2: ``(N, C, H, W)`` -> ``(N, width, H/4, W/4)``.

    Args:
        in_channels: channels of the images.
        width: channels out.
        style: of the convolution.
        pool: "default" pads the pooling by one pixel all around, "same" as TensorFlow does: for even sides at the right
            and at the bottom alone, so its windows lie a pixel further there.

    Raises:
        ValueError: another kind of padding.
    """

    def __init__(self, in_channels: int, width: int, style: ConvStyle, pool: StemPool):
        super().__init__()
        if pool not in ("default", "same"):
            raise ValueError(f"stem_pool: expected 'default' or 'same', got {pool!r}")
        self.conv1 = style.conv(in_channels, width, 7, stride=2)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Images to the map that res2 starts from."""
        x = self.conv1(x)
        if self.pool == "same":  # zeros never win: what comes from a ReLU is no less
            return F.max_pool2d(same_pad(x, 3, 2), kernel_size=3, stride=2)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


@BACKBONES.register()
class ResNet(Backbone):
    """Residual network (He, Zhang, Ren, Sun 2015, arXiv:1512.03385) without its classifier.

    The stages ``res2`` .. ``res5`` have strides 4, 8, 16, 32. A stage that is not needed for ``out_features`` is not
    built. Depths 18 and 34 are made of basic blocks, the others of bottlenecks.

    Args:
        depth: number of layers of the original classifier.
        norm: normalisation after each convolution. FrozenBN normalises nothing until weights are loaded: from
            scratch take BN or GN.
        freeze_at: how much of the network does not learn: 0 nothing, 1 the stem, 2 the stem and res2, up to 5. Batch
            norms of that part become FrozenBN.
        stride_in_1x1: where a bottleneck strides: true for its first 1x1 convolution (the original, Detectron2's
            R-50 and R-101), false for the 3x3 one (torchvision's).
        out_features: the maps to give, of res2, res3, res4, res5.
        res5_dilation: 2 for a res5 of stride 16 with dilated convolutions (bottlenecks only).
        width: channels of the stem; the stages have 1, 2, 4, 8 times as many (times 4 with bottlenecks).
        conv_bias: whether convolutions have a bias beside their norm (matterport's Mask R-CNN).
        stem_pool: padding of the stem's max pooling: default, one pixel all around, or same, as TensorFlow pads: for
            even sides at the right and at the bottom alone (matterport's Mask R-CNN).
        deform: stages with deformable convolutions (bottlenecks only); null for none.

    Raises:
        ValueError: an unknown map, no map, ``freeze_at`` outside 0..5, a width below 1, a
            dilated or deformable basic block, or a deformable stage that is not built.
    """

    renamed_options: ClassVar[Mapping[str, str]] = {"norm_eps": "norm.eps"}

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        depth: Literal[18, 34, 50, 101, 152] = 50,
        norm: Recipe[Norm] = Recipe(FrozenBN),
        freeze_at: Annotated[int, Interval(0, 5)] = 2,
        stride_in_1x1: bool = True,
        out_features: tuple[str, ...] = ("res2", "res3", "res4", "res5"),
        res5_dilation: Literal[1, 2] = 1,
        width: Count = 64,
        conv_bias: bool = False,
        stem_pool: StemPool = "default",
        deform: DeformConv | None = None,
    ):
        super().__init__(input_shape)
        layout = Layout(
            depth=depth,
            style=ConvStyle(norm, conv_bias),
            width=width,
            stride_in_1x1=stride_in_1x1,
            num_groups=1,
            width_per_group=width,
            res5_dilation=res5_dilation,
            deform=deform,
        )
        self._build(input_shape, layout, stem_pool, freeze_at, out_features)

    @classmethod
    def strides(cls, options: Mapping[str, Any]) -> dict[str, int] | None:
        """See ``Backbone.strides``."""
        known = dict(zip(STAGES, (4, 8, 16, 32 // options["res5_dilation"])))
        names = [name for name in STAGES if name in options["out_features"]]
        return {name: known[name] for name in names} if len(names) == len(options["out_features"]) else None

    def _build(
        self,
        input_shape: ShapeSpec,
        layout: Layout,
        stem_pool: StemPool,
        freeze_at: int,
        out_features: tuple[str, ...],
    ) -> None:
        unknown = [name for name in out_features if name not in STAGES]
        if unknown or not out_features:
            raise ValueError(f"out_features: expected some of {', '.join(STAGES)}, got {list(out_features)}")
        if not 0 <= freeze_at <= 5:
            raise ValueError(f"freeze_at: expected 0 (nothing) to 5 (everything), got {freeze_at}")
        built = STAGES[: max(map(STAGES.index, out_features)) + 1]
        for name in () if layout.deform is None else layout.deform.stages:
            if name not in built:
                raise ValueError(
                    f"deform.stages: expected some of the stages that are built, {', '.join(built)}, got {name!r}"
                )
        self.stem = Stem(input_shape.channels, layout.width, layout.style, stem_pool)
        self.output_shape = {}
        channels, stride = layout.width, input_shape.stride * 4
        for stage, name in enumerate(built, start=2):
            self.add_module(name, layout.stage(stage, channels))
            channels, stride = layout.out_channels(stage), stride * layout.stride(stage)
            if name in out_features:
                self.output_shape[name] = ShapeSpec(channels=channels, stride=stride)
        for name in ("stem", *self._stages())[:freeze_at]:
            freeze(self.get_submodule(name))

    def _stages(self) -> list[str]:
        return [name for name in STAGES if name in self._modules]

    def forward(self, images: Tensor) -> Features:
        """``(N, C, H, W)`` -> stage name -> ``(N, C', H/s, W/s)``."""
        x = self.stem(images)
        features = {}
        for name in self._stages():
            x = self.get_submodule(name)(x)
            if name in self.output_shape:
                features[name] = x
        return features


@BACKBONES.register()
class ResNeXt(ResNet):
    """ResNet with grouped 3x3 convolutions (Xie, Girshick, Dollar, Tu, He 2017, arXiv:1611.05431).

    ``X-101-32x8d`` is depth 101 with 32 groups of width 8. Detectron2 and torchvision stride in the 3x3 one.
    The other options are those of ``ResNet``.

    Args:
        num_groups: groups of each 3x3 convolution.
        width_per_group: channels of a group in res2; each later stage doubles them.

    Raises:
        ValueError: as for ``ResNet``, or fewer than one group or channel.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        depth: Literal[50, 101, 152] = 101,
        num_groups: Count = 32,
        width_per_group: Count = 8,
        norm: Recipe[Norm] = Recipe(FrozenBN),
        freeze_at: Annotated[int, Interval(0, 5)] = 2,
        stride_in_1x1: bool = False,
        out_features: tuple[str, ...] = ("res2", "res3", "res4", "res5"),
        res5_dilation: Literal[1, 2] = 1,
        conv_bias: bool = False,
        stem_pool: StemPool = "default",
        deform: DeformConv | None = None,
    ):
        Backbone.__init__(self, input_shape)
        layout = Layout(
            depth=depth,
            style=ConvStyle(norm, conv_bias),
            width=64,
            stride_in_1x1=stride_in_1x1,
            num_groups=num_groups,
            width_per_group=width_per_group,
            res5_dilation=res5_dilation,
            deform=deform,
        )
        self._build(input_shape, layout, stem_pool, freeze_at, out_features)
