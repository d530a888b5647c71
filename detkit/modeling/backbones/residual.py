"""Residual blocks (He 2015)."""

import dataclasses
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Count, Length, Recipe
from detkit.layers import ConvNorm, DeformConvNorm, FrozenBN, Norm


@dataclasses.dataclass(frozen=True)
class ConvStyle:
    """What all convolutions of a network have in common.

    Args:
        norm: after each convolution.
        bias: whether convolutions have a bias beside their norm.
    """

    norm: Recipe[Norm] | str
    bias: bool = False

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        relu: bool = True,
        kind: type[ConvNorm] = ConvNorm,
        **steps: int,
    ) -> ConvNorm:
        """A convolution of this style; ``steps``: its stride, dilation and groups."""
        activation = nn.ReLU(inplace=True) if relu else None
        sizes = in_channels, out_channels, kernel_size
        return kind(*sizes, **steps, bias=self.bias, norm=self.norm, activation=activation)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class DeformConv:
    """Deformable 3x3 convolutions in bottlenecks (Dai et al. 2017, arXiv:1703.06211).

    Args:
        stages: those that have them, of res2, res3, res4, res5.
        modulated: whether each tap is weighted too (Zhu et al. 2018, arXiv:1811.11168).
        num_groups: groups of channels with offsets of their own.

    Raises:
        ValueError: no stage, or fewer than one group.
    """

    stages: Annotated[tuple[str, ...], Length(1)]
    modulated: bool = False
    num_groups: Count = 1

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError(
                "deform.stages: expected some of res2, res3, res4, res5, got none; for none set deform: null"
            )
        if self.num_groups < 1:
            raise ValueError(f"deform.num_groups: expected at least 1, got {self.num_groups}")


class ResidualBlock(nn.Module):
    """``relu(last(inner(x)) + shortcut(x))``, where the shortcut is a 1x1 convolution if the shape changes.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        stride: of the block.
        style: of the convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, style: ConvStyle):
        super().__init__()
        self.out_channels = out_channels
        same = in_channels == out_channels and stride == 1
        self.shortcut = None if same else style.conv(in_channels, out_channels, 1, stride=stride, relu=False)

    @property
    def last(self) -> ConvNorm:
        """The last convolution of the residual function, which the shortcut is added to."""
        raise NotImplementedError

    def inner(self, x: Tensor) -> Tensor:
        """The residual function but for its last convolution."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, out_channels, H/stride, W/stride)``."""
        out = self.last(self.inner(x))
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions; the first one strides."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, style: ConvStyle):
        super().__init__(in_channels, out_channels, stride=stride, style=style)
        self.conv1 = style.conv(in_channels, out_channels, 3, stride=stride)
        self.conv2 = style.conv(out_channels, out_channels, 3, relu=False)

    @property
    def last(self) -> ConvNorm:
        """See ``ResidualBlock.last``."""
        return self.conv2

    def inner(self, x: Tensor) -> Tensor:
        """See ``ResidualBlock.inner``."""
        return self.conv1(x)


class BottleneckBlock(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions; the 3x3 one, on fewer channels, may be grouped, dilated or deformable.

    The offsets of a deformable one are ``conv2_offset`` of its input: a 3x3 convolution that starts at zero.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        bottleneck_channels: channels of the 3x3 convolution.
        stride: of the block.
        style: of the convolutions.
        stride_in_1x1: whether the first 1x1 convolution strides, not the 3x3 one.
        num_groups: groups of the 3x3 convolution.
        dilation: of the 3x3 convolution.
        deform: makes the 3x3 convolution a deformable one; None for an ordinary one.

    Raises:
        ValueError: the groups of ``deform`` do not divide the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int,
        style: ConvStyle,
        stride_in_1x1: bool,
        num_groups: int = 1,
        dilation: int = 1,
        deform: DeformConv | None = None,
    ):
        super().__init__(in_channels, out_channels, stride=stride, style=style)
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        inner = bottleneck_channels
        self.conv1 = style.conv(in_channels, inner, 1, stride=stride_1x1)
        self.modulated = deform is not None and deform.modulated
        self.conv2_offset = None if deform is None else _offsets(inner, stride_3x3, dilation, deform)
        kind = ConvNorm if deform is None else DeformConvNorm
        self.conv2 = style.conv(inner, inner, 3, stride=stride_3x3, dilation=dilation, groups=num_groups, kind=kind)
        self.conv3 = style.conv(inner, out_channels, 1, relu=False)

    @property
    def last(self) -> ConvNorm:
        """See ``ResidualBlock.last``."""
        return self.conv3

    def inner(self, x: Tensor) -> Tensor:
        """See ``ResidualBlock.inner``."""
        x = self.conv1(x)
        if self.conv2_offset is None:
            return self.conv2(x)
        offset, mask = self.conv2_offset(x), None
        if self.modulated:
            down_or_right = offset.shape[1] // 3 * 2
            offset, mask = offset[:, :down_or_right], offset[:, down_or_right:].sigmoid()
        return self.conv2(x, offset, mask)


@dataclasses.dataclass(frozen=True)
class BottleneckStage:
    """A stage of bottlenecks that stands alone, such as the res5 of RoI heads. By default a ResNet-50's, 101's, 152's.

    Args:
        num_blocks: blocks one after the other.
        norm: normalisation after each convolution.
        num_groups: groups of each 3x3 convolution; 1 for a ResNet, more for a ResNeXt.
        width_per_group: channels of a group in res2; res5 has eight times as many.
        stride_in_1x1: where the first block strides: true for its first 1x1 convolution, false for the 3x3 one.
        stride: of the stage.

    Raises:
        ValueError: a number below 1.
    """

    num_blocks: Count = 3
    norm: Recipe[Norm] = Recipe(FrozenBN)
    num_groups: Count = 1
    width_per_group: Count = 64
    stride_in_1x1: bool = True
    stride: Count = 2

    def __post_init__(self) -> None:
        for name in ("num_blocks", "num_groups", "width_per_group", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    def build(self, in_channels: int) -> nn.Sequential:
        """The stage: ``(N, in_channels, H, W)`` -> ``(N, 2 * in_channels, H/stride, W/stride)``."""
        out_channels = 2 * in_channels
        blocks = [
            BottleneckBlock(
                out_channels if n else in_channels,
                out_channels,
                bottleneck_channels=self.num_groups * self.width_per_group * 8,
                stride=1 if n else self.stride,
                style=ConvStyle(self.norm),
                stride_in_1x1=self.stride_in_1x1,
                num_groups=self.num_groups,
            )
            for n in range(self.num_blocks)
        ]
        return nn.Sequential(*blocks)


def _offsets(channels: int, stride: int, dilation: int, deform: DeformConv) -> nn.Conv2d:
    """The convolution that says where a 3x3 kernel's taps go, and how much they weigh: at first nowhere, one half."""
    if channels % deform.num_groups:
        raise ValueError(f"deform.num_groups: {deform.num_groups} groups do not divide {channels} channels")
    numbers = 9 * deform.num_groups * (3 if deform.modulated else 2)
    conv = nn.Conv2d(channels, numbers, 3, stride=stride, padding=dilation, dilation=dilation)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.zero_()
    return conv
