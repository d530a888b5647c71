"""How a residual network is laid out: which blocks its stages are made of."""

import dataclasses

from torch import nn

from detkit.modeling.backbones.residual import BasicBlock, BottleneckBlock, ConvStyle, DeformConv, ResidualBlock

STAGES = ("res2", "res3", "res4", "res5")
NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Depth -> number of blocks of res2, res3, res4, res5."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which blocks a network is made of.

    Args:
        depth: 18 and 34 are basic blocks, 50, 101 and 152 bottlenecks.
        style: of the convolutions.
        width: channels of the stem. res2 gives as many, or four times as many with bottlenecks.
        stride_in_1x1: see ``BottleneckBlock``.
        num_groups: see ``BottleneckBlock``.
        width_per_group: channels of a group in res2.
        res5_dilation: 2 to dilate res5 where it would stride.
        deform: stages with deformable convolutions; None for none.

    Raises:
        ValueError: a depth without a layout, a number below 1, an unknown stage, or a basic block that is dilated or
            deformable.
    """

    depth: int
    style: ConvStyle
    width: int
    stride_in_1x1: bool
    num_groups: int
    width_per_group: int
    res5_dilation: int
    deform: DeformConv | None

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
        if self.deform is not None and not self.bottleneck:
            raise ValueError(
                f"deform: needs bottlenecks (depth 50 or more), and the depth is {self.depth}; set deform: null"
            )

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
            return BasicBlock(in_channels, out_channels, stride=stride, style=self.style)
        return BottleneckBlock(
            in_channels,
            out_channels,
            bottleneck_channels=self.num_groups * self.width_per_group * 2 ** (stage - 2),
            stride=stride,
            style=self.style,
            stride_in_1x1=self.stride_in_1x1,
            num_groups=self.num_groups,
            dilation=self._dilation(stage),
            deform=self.deform if self.deform is not None and f"res{stage}" in self.deform.stages else None,
        )

    def _dilation(self, stage: int) -> int:
        return self.res5_dilation if stage == 5 else 1
