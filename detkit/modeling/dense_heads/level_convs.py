"""The convolutions of a dense head, which the maps of all levels go through. L levels."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.layers import ConvNorm, Norm


class LevelBN(Norm):
    """A batch norm with statistics of each level's own, and one scale and one shift for all (Wu and Johnson 2021,
    arXiv:2105.07576, section 5.2): the maps of two levels differ in what they hold, as images of two datasets do.

    Args:
        norm: makes the batch norm of a level from the number of channels.
        num_levels: L.
    """

    def __init__(self, num_channels: int, norm: Callable[[int], _BatchNorm], num_levels: int):
        super().__init__(num_channels)
        self.levels = nn.ModuleList(norm(num_channels) for _ in range(num_levels))
        for level in self.levels:  # what a level normalises with is its own, the rest is shared
            level.affine, level.weight, level.bias = False, None, None  # type: ignore[assignment]
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor, level: int = 0) -> Tensor:
        """The map ``(N, C, H, W)`` of a level, counted from 0 -> the same shape."""
        x = self.levels[level](x)
        scale, shift = (values.to(x.dtype)[:, None, None] for values in (self.weight, self.bias))
        return x * scale + shift


class LevelConv(ConvNorm):
    """A 3x3 convolution, its norm and a ReLU on the maps of all levels; a batch norm becomes a ``LevelBN``.

    Args:
        channels: in and out.
        num_levels: L.
        norm: makes the norm from the number of channels; None for none.
        bias: whether to add a bias beside the norm; without one there always is.
    """

    def __init__(self, channels: int, num_levels: int, *, norm: Callable[[int], nn.Module] | None, bias: bool):
        relu = nn.ReLU(inplace=True)
        super().__init__(channels, channels, 3, bias=bias or norm is None, norm=norm, activation=relu)
        if isinstance(self.norm, _BatchNorm):
            self.norm = LevelBN(channels, norm, num_levels)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:  # type: ignore[override]
        """L maps, each ``(N, C, H, W)`` -> as many of the same shapes."""
        if not isinstance(self.norm, LevelBN):
            return [super(LevelConv, self).forward(x) for x in maps]
        convolved = [F.conv2d(x, self.weight, self.bias, padding=self.padding) for x in maps]
        return [F.relu(self.norm(x, level), inplace=True) for level, x in enumerate(convolved)]
