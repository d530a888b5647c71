"""Layers in operators that every engine has."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.layers import DeformConvNorm


class StaticDeformConv(nn.Module):
    """``DeformConvNorm`` as bilinear samples of the map and a 1x1 convolution of these.

    ONNX has an operator of its own from opset 19 on, which few engines know.

    Args:
        conv: the layer.
    """

    def __init__(self, conv: DeformConvNorm):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """See ``DeformConvNorm.forward``."""
        conv, (height, width), taps = self.conv, x.shape[-2:], self.conv.weight[0, 0].numel()
        groups = offset.shape[1] // (2 * taps)
        moved = offset.unflatten(1, (groups, taps, 2))  # N, G, K, 2, H', W'
        tap = torch.arange(taps, device=x.device)
        steps = (tap // conv.kernel_size[1], tap % conv.kernel_size[1])
        sides = []
        for axis, size in enumerate((height, width)):
            start = torch.arange(offset.shape[2 + axis], device=x.device) * conv.stride[axis] - conv.padding[axis]  # type: ignore[operator]
            reach = (steps[axis] * conv.dilation[axis])[:, None, None]
            places = moved[:, :, :, axis] + reach + (start[:, None] if axis == 0 else start)
            sides.append((2 * places + 1) / size - 1)
        grid = torch.stack([sides[1], sides[0]], dim=-1).flatten(0, 1).flatten(1, 2)  # N * G, K * H', W', 2
        maps = x.unflatten(1, (groups, -1)).flatten(0, 1)
        samples = F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False)
        samples = samples.unflatten(2, (taps, -1)).unflatten(0, (-1, groups))  # N, G, C / G, K, H', W'
        if mask is not None:
            samples = samples * mask.unflatten(1, (groups, 1, taps))
        samples = samples.flatten(1, 3)
        return conv.finish(
            samples,
            lambda weight, bias: F.conv2d(samples, weight.flatten(1)[:, :, None, None], bias, groups=conv.groups),
        )


def with_static_layers(model: nn.Module) -> None:
    """Puts static layers in the place of those that engines do not know, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DeformConvNorm) and not isinstance(parent, StaticDeformConv):
                setattr(parent, name, StaticDeformConv(child))
