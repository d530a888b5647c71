"""Norms with fixed statistics become part of the convolutions before them."""

import itertools
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.layers import ConvNorm, FrozenBN


@torch.no_grad()
def fold_norms(module: nn.Module) -> None:
    """Folds every batch norm that follows a convolution into its weights, in place.

    ``norm(conv(x, w))`` is ``conv(x, w * scale) + shift``. Such are the norms of ``ConvNorm``, those that stand right
    behind a convolution in an ``nn.Sequential``, and those that a traced network calls with what a convolution gives
    to nothing else. Other norms, which look at the map, stay.

    Args:
        module: in evaluation mode.
    """
    for part in list(module.modules()):
        if isinstance(part, ConvNorm) and _is_fixed(part.norm):
            _fold(part, part.norm)
            part.norm = None
        for conv, parent, name, norm in _pairs(part):
            if type(conv) is nn.Conv2d and _is_fixed(norm):
                _fold(conv, norm)
                setattr(parent, name, nn.Sequential(*norm.children()))  # such as the activation of timm's norms


def _pairs(part: nn.Module) -> Iterator[tuple[nn.Module, nn.Module, str, nn.Module]]:
    """Modules that run one right after the other: the first, and parent, name and module of the second."""
    if isinstance(part, nn.Sequential):
        for (_, first), (name, second) in itertools.pairwise(list(part.named_children())):
            yield first, part, name, second
    elif isinstance(part, fx.GraphModule):
        calls = Counter(node.target for node in part.graph.nodes if node.op == "call_module")
        for node in part.graph.nodes:
            before = node.args[0] if node.args else None
            if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
                continue
            if len(before.users) == 1 and calls[node.target] == calls[before.target] == 1:
                path, _, name = str(node.target).rpartition(".")
                first, second = part.get_submodule(str(before.target)), part.get_submodule(str(node.target))
                yield first, part.get_submodule(path), name, second


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
