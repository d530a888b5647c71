"""Convolutions and linear layers with weights in oneDNN's layout, which also do the operation that follows them.

The operators are those that torch's compiler calls on the CPU. Used directly they take images of any size at once.
"""

import torch
from torch import Tensor, nn

from detkit.inference.winograd import RowWinograd
from detkit.layers import ConvNorm
from detkit.modeling.backbones.residual import ResidualBlock

_OPS = torch.ops.mkldnn


def can_pack(dtype: torch.dtype) -> bool:
    """Whether torch has oneDNN here, and the processor instructions for ``dtype``."""
    if not torch.backends.mkldnn.is_available() or not hasattr(_OPS, "_convolution_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(_OPS._is_mkldnn_bf16_supported()))


def is_packable(module: nn.Module) -> bool:
    """Whether ``pack`` takes it: a convolution or a linear layer as it comes, with zeros for its padding."""
    if type(module) is ConvNorm and module.norm is not None:
        return False
    if type(module) in (nn.Conv2d, ConvNorm):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)  # type: ignore[union-attr]
    return type(module) is nn.Linear


class PackedConv(nn.Module):
    """A convolution in channels-last layout, with its ReLU.

    The weights are no parameters: the module stays on the CPU and is neither saved nor trained.

    Args:
        conv: its norm has been folded.
        dtype: of the weights and of what comes out.
        winograd: whether large maps may go by ``RowWinograd``; for float32.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, winograd: bool = False):
        super().__init__()
        self.stride, self.padding, self.dilation = list(conv.stride), list(conv.padding), list(conv.dilation)
        self.groups, self.dtype = conv.groups, dtype
        weight = conv.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        example = [1, conv.in_channels, 128, 128]
        self.weight = _OPS._reorder_convolution_weight(
            weight, self.padding, self.stride, self.dilation, self.groups, example
        )
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        activation = conv.activation if isinstance(conv, ConvNorm) else None
        self.attr = "relu" if isinstance(activation, nn.ReLU) else "none"
        self.activation = None if self.attr == "relu" else activation
        self.by_rows = RowWinograd(conv) if winograd and RowWinograd.takes(conv) else None

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, C', H', W')``."""
        x = _channels_last(x, self.dtype)
        if self.by_rows is not None and self.by_rows.pays_for(x):
            y = self.by_rows(x, relu=self.attr == "relu")
        else:
            where = (self.padding, self.stride, self.dilation, self.groups)
            y = _OPS._convolution_pointwise(x, self.weight, self.bias, *where, self.attr, [], "")
        return y if self.activation is None else self.activation(y)

    def added_to(self, x: Tensor, other: Tensor) -> Tensor:
        """``relu(conv(x) + other)``."""
        x, other = _channels_last(x, self.dtype), _channels_last(other, self.dtype)
        where = (self.padding, self.stride, self.dilation, self.groups)
        return _OPS._convolution_pointwise.binary(x, other, self.weight, self.bias, *where, "add", 1.0, "relu", [], "")


class PackedLinear(nn.Module):
    """A linear layer.

    Args:
        linear: the layer.
        dtype: of the weights and of what comes out.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.weight = _OPS._reorder_linear_weight(linear.weight.detach().to(dtype).contiguous(), 1000)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` -> ``(..., out_features)``."""
        return _OPS._linear_pointwise(x.to(self.dtype).contiguous(), self.weight, self.bias, "none", [], "")


class PackedResidual(nn.Module):
    """A residual block whose last convolution adds the shortcut and takes the ReLU itself.

    Args:
        block: its convolutions are packed.
    """

    def __init__(self, block: ResidualBlock):
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """See ``ResidualBlock.forward``."""
        shortcut = x if self.block.shortcut is None else self.block.shortcut(x)
        return self.block.last.added_to(self.block.inner(x), shortcut)  # type: ignore[operator]


def pack(module: nn.Module, dtype: torch.dtype, winograd: bool = False) -> nn.Module:
    """Packs every layer that can be packed, in place, and returns the module or its replacement; see ``PackedConv``."""
    if is_packable(module):
        if isinstance(module, nn.Linear):
            return PackedLinear(module, dtype)
        return PackedConv(module, dtype, winograd)  # type: ignore[arg-type]
    library = type(module).__module__.partition(".")[0]
    for name, child in module.named_children():
        if isinstance(child, nn.Linear) and library not in ("detkit", "torch"):
            continue  # attention of timm and torchvision reads the weights of its linear layers itself
        setattr(module, name, pack(child, dtype, winograd))
    last: nn.Module | None = module.last if isinstance(module, ResidualBlock) else None
    return PackedResidual(module) if isinstance(last, PackedConv) else module  # type: ignore[arg-type]


def _channels_last(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).contiguous(memory_format=torch.channels_last)
