"""A convolution, ordinary or deformable, with its norm and activation as one module."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from fvcore.nn.weight_init import c2_msra_fill, c2_xavier_fill
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from detkit.layers.norm import FrozenBN, make_norm, replace_modules


class ConvNorm(nn.Conv2d):
    """Convolution, then norm, then activation. The norm is the child ``norm``: ``conv1.weight``, ``conv1.norm.weight``.

    On a channels-last map a ``FrozenBN`` is folded into the convolution's weights on the fly:
    ``conv(x, w) * a + b`` is ``conv(x, a * w) + b``. That saves a pass over the map, forward and backward, and its copy
    for the backward pass; hooks on the norm do not fire then. On a map in contiguous layout, the references', it is
    computed as written, so that imported weights give their reference's numbers to the last bit.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        kernel_size: side of the kernel.
        stride: step of the kernel.
        padding: zeros at each side; None for as many as keep the size at stride 1 with an odd kernel.
        dilation: distance of the kernel's taps.
        groups: groups of channels that do not see each other.
        bias: whether to add a bias; None for only where there is no norm.
        norm: makes the norm from the number of channels, or is its registered name; None for none.
        activation: what comes last, e.g. ``nn.ReLU(inplace=True)``; None for nothing. It may work in place.
        init: fills the weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | None = None,
        norm: Callable[[int], nn.Module] | str | None = None,
        activation: nn.Module | None = None,
        init: Callable[[nn.Module], None] = c2_msra_fill,
    ):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size - 1) // 2 if padding is None else padding,
            dilation=dilation,
            groups=groups,
            bias=norm is None if bias is None else bias,
        )
        self.norm = make_norm(norm, out_channels)
        self.activation = activation
        init(self)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, out_channels, H', W')``."""
        x, stride = _seen(self, x)
        return self.finish(
            x, lambda weight, bias: F.conv2d(x, weight, bias, stride, self.padding, self.dilation, self.groups)
        )

    def finish(self, x: Tensor, convolve: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
        """What ``convolve(weight, bias)`` makes of ``x``, with norm and activation."""
        if isinstance(self.norm, FrozenBN) and x.is_contiguous(memory_format=torch.channels_last):
            scale, shift = self.norm.scale_shift()
            bias = shift if self.bias is None else self.bias * scale + shift
            x = convolve(self.weight * scale[:, None, None, None], bias)
        else:
            x = convolve(self.weight, self.bias)
            if self.norm is not None:
                x = self.norm(x)
        return x if self.activation is None else self.activation(x)


class DeformConvNorm(ConvNorm):
    """``ConvNorm`` whose taps are moved, each by its own offset at each place (Dai et al. 2017, arXiv:1703.06211).

    With a mask each tap is weighted too (Zhu et al. 2018, arXiv:1811.11168). Offsets of zero and a mask of one make it
    a ``ConvNorm``; options and weights are the same. K is the number of taps, G of groups of channels that share their
    offsets (as many as the offsets' channels say).
    """

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """A map and its offsets -> ``(N, out_channels, H', W')``.

        Args:
            x: ``(N, C, H, W)``.
            offset: ``(N, 2GK, H', W')`` pixels of ``x``, for each group and tap down and to the right.
            mask: ``(N, GK, H', W')``.
        """
        wide = torch.promote_types(x.dtype, torch.float32)  # the operator has no bfloat16
        values, places, factors = (None if given is None else given.to(wide) for given in (x, offset, mask))

        def convolve(weight: Tensor, bias: Tensor | None) -> Tensor:
            steps: Any = (self.stride, self.padding, self.dilation)
            return deform_conv2d(values, places, weight, bias, *steps, factors).to(x.dtype)

        return self.finish(x, convolve)


def conv_stack(
    channels: Sequence[int], *, norm: Callable[[int], nn.Module] | None = None, bias: bool | None = None
) -> nn.Sequential:
    """3x3 convolutions of stride 1, each with its norm and a ReLU: one from each of ``channels`` to the next.

    ``norm`` and ``bias`` are those of ``ConvNorm``.
    """
    pairs = itertools.pairwise(channels)
    return nn.Sequential(*(ConvNorm(a, b, 3, bias=bias, norm=norm, activation=nn.ReLU(inplace=True)) for a, b in pairs))


class _SubsampledConv2d(nn.Conv2d):
    """An ``nn.Conv2d`` that is safe on channels-last maps, see ``_is_unsafe``."""

    def forward(self, x: Tensor) -> Tensor:
        """See ``nn.Conv2d``."""
        x, stride = _seen(self, x)
        return F.conv2d(x, self.weight, self.bias, stride, self.padding, self.dilation, self.groups)


def guard_convolutions(model: nn.Module) -> None:
    """Makes the convolutions of networks that others wrote safe on channels-last maps, in place; weights, names and
    results stay as they are."""
    replace_modules(model, nn.Conv2d, _guarded)


def _guarded(conv: nn.Conv2d) -> nn.Conv2d:
    if type(conv) is not nn.Conv2d or not _is_unsafe(conv):
        return conv
    down, right = conv.stride
    bias = conv.bias is not None
    safe = _SubsampledConv2d(
        conv.in_channels, conv.out_channels, 1, stride=(down, right), groups=conv.groups, bias=bias, device="meta"
    )
    safe.weight, safe.bias = conv.weight, conv.bias
    return safe.train(conv.training)


def _is_unsafe(conv: nn.Conv2d) -> bool:
    """Whether oneDNN (3.12, in torch 2.14) writes past its buffers in the backward pass on channels-last maps."""
    pointwise = conv.kernel_size == (1, 1) and conv.padding == (0, 0)
    return pointwise and conv.stride != (1, 1) and conv.in_channels < 16


def _seen(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """A map and a stride with which a convolution gives the same, safely."""
    if _is_unsafe(conv) and x.is_contiguous(memory_format=torch.channels_last):
        return x[..., :: conv.stride[0], :: conv.stride[1]], (1, 1)  # what a 1 x 1 kernel sees of it
    return x, conv.stride


__all__ = ["ConvNorm", "DeformConvNorm", "c2_msra_fill", "c2_xavier_fill", "conv_stack", "guard_convolutions"]
