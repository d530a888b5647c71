"""Residual blocks (He 2015), and how a network is laid out with them."""

import dataclasses

from torch import Tensor, nn
from torch.nn import functional as F

from detkit.layers import ConvNorm, NormName


class ResidualBlock(nn.Module):
    """``relu(body(x) + shortcut(x))``, where the shortcut is a 1x1 convolution if the shape changes.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        stride: of the block.
        norm: after each convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: NormName):
        super().__init__()
        self.out_channels = out_channels
        same = in_channels == out_channels and stride == 1
        self.shortcut = None if same else ConvNorm(in_channels, out_channels, 1, stride=stride, norm=norm)

    def body(self, x: Tensor) -> Tensor:
        """The residual function."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, out_channels, H/stride, W/stride)``."""
        out = self.body(x)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions; the first one strides."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: NormName):
        super().__init__(in_channels, out_channels, stride=stride, norm=norm)
        self.conv1 = ConvNorm(in_channels, out_channels, 3, stride=stride, norm=norm, activation=nn.ReLU(inplace=True))
        self.conv2 = ConvNorm(out_channels, out_channels, 3, norm=norm)

    def body(self, x: Tensor) -> Tensor:
        """See ``ResidualBlock.body``."""
        return self.conv2(self.conv1(x))


class BottleneckBlock(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions; the 3x3 one, on fewer channels, may be grouped or dilated.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        bottleneck_channels: channels of the 3x3 convolution.
        stride: of the block.
        norm: after each convolution.
        stride_in_1x1: whether the first 1x1 convolution strides, not the 3x3 one.
        num_groups: groups of the 3x3 convolution.
        dilation: of the 3x3 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int,
        norm: NormName,
        stride_in_1x1: bool,
        num_groups: int = 1,
        dilation: int = 1,
    ):
        super().__init__(in_channels, out_channels, stride=stride, norm=norm)
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        inner, relu = bottleneck_channels, nn.ReLU(inplace=True)
        self.conv1 = ConvNorm(in_channels, inner, 1, stride=stride_1x1, norm=norm, activation=relu)
        self.conv2 = ConvNorm(
            inner, inner, 3, stride=stride_3x3, dilation=dilation, groups=num_groups, norm=norm, activation=relu
        )
        self.conv3 = ConvNorm(inner, out_channels, 1, norm=norm)

    def body(self, x: Tensor) -> Tensor:
        """See ``ResidualBlock.body``."""
        return self.conv3(self.conv2(self.conv1(x)))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which blocks a network is made of.

    Args:
        depth: 18 and 34 are basic blocks, 50, 101 and 152 bottlenecks.
        norm: after each convolution.
        width: channels of the stem. res2 gives as many, or four times as many with bottlenecks.
        stride_in_1x1: see ``BottleneckBlock``.
        num_groups: see ``BottleneckBlock``.
        width_per_group: channels of a group in res2.
        res5_dilation: 2 to dilate res5 where it would stride.

    Raises:
        ValueError: a depth without a layout, a number below 1, or a dilated basic block.
    """

    depth: int
    norm: NormName
    width: int
    stride_in_1x1: bool
    num_groups: int
    width_per_group: int
    res5_dilation: int

    def __post_init__(self) -> None:
        if self.depth not in NUM_BLOCKS:
            raise ValueError(f"depth: expected one of {', '.join(map(str, NUM_BLOCKS))}, got {self.depth}")
        for name in ("width", "num_groups", "width_per_group"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.res5_dilation not in (1, 2):
            raise ValueError(f"res5_dilation: expected 1 or 2, got {self.res5_dilation}")
        if self.res5_dilation == 2 and not self.bottleneck:
            raise ValueError(f"res5_dilation: 2 needs bottlenecks (depth 50 or more), and the depth is {self.depth}")

    @property
    def bottleneck(self) -> bool:
        """Whether the blocks are bottlenecks."""
        return self.depth >= 50

    def stride(self, stage: int) -> int:
        """Stride of ``res{stage}`` relative to the stage before."""
        return 1 if stage == 2 or self._dilation(stage) > 1 else 2

    def out_channels(self, stage: int) -> int:
        """Channels that ``res{stage}`` gives."""
        return self.width * 2 ** (stage - 2) * (4 if self.bottleneck else 1)

    def stage(self, stage: int, in_channels: int) -> nn.Sequential:
        """The blocks of ``res{stage}``."""
        blocks = []
        for n in range(NUM_BLOCKS[self.depth][stage - 2]):
            blocks.append(self._block(stage, in_channels, self.stride(stage) if n == 0 else 1))
            in_channels = self.out_channels(stage)
        return nn.Sequential(*blocks)

    def _block(self, stage: int, in_channels: int, stride: int) -> ResidualBlock:
        out_channels = self.out_channels(stage)
        if not self.bottleneck:
            return BasicBlock(in_channels, out_channels, stride=stride, norm=self.norm)
        return BottleneckBlock(
            in_channels,
            out_channels,
            bottleneck_channels=self.num_groups * self.width_per_group * 2 ** (stage - 2),
            stride=stride,
            norm=self.norm,
            stride_in_1x1=self.stride_in_1x1,
            num_groups=self.num_groups,
            dilation=self._dilation(stage),
        )

    def _dilation(self, stage: int) -> int:
        return self.res5_dilation if stage == 5 else 1


NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Depth -> number of blocks of res2, res3, res4, res5."""
