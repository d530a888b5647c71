"""Norms with fixed statistics become part of the convolutions before them."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.layers import ConvNorm, FrozenBN


@torch.no_grad()
def fold_norms(module: nn.Module) -> None:
    """Folds every batch norm that follows a convolution into its weights, in place.

    ``norm(conv(x, w))`` is ``conv(x, w * scale) + shift``. Such are the norms of ``ConvNorm`` and those that stand
    right behind a convolution in an ``nn.Sequential``. Other norms, which look at the map, stay.

    Args:
        module: in evaluation mode.
    """
    for part in module.modules():
        if isinstance(part, ConvNorm) and _is_fixed(part.norm):
            _fold(part, part.norm)
            part.norm = None
        if isinstance(part, nn.Sequential):
            for (_, conv), (name, norm) in itertools.pairwise(list(part.named_children())):
                if type(conv) is nn.Conv2d and _is_fixed(norm):
                    _fold(conv, norm)
                    setattr(part, name, nn.Sequential(*norm.children()))  # such as the activation of timm's norms


def _is_fixed(norm: nn.Module | None) -> bool:
    """Whether ``norm`` is a scale and a shift for each channel, whatever it sees."""
    if isinstance(norm, _BatchNorm):
        return norm.track_running_stats and not norm.training
    return isinstance(norm, FrozenBN)


def _fold(conv: nn.Conv2d, norm: nn.Module | None) -> None:
    scale, shift = _scale_shift(norm)
    bias = shift if conv.bias is None else conv.bias.double() * scale + shift
    weight = conv.weight.double() * scale[:, None, None, None]
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)


def _scale_shift(norm: nn.Module | None) -> tuple[Tensor, Tensor]:
    """The norm as ``x * scale + shift``, in double precision."""
    assert isinstance(norm, _BatchNorm | FrozenBN)
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    scale = (var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()
