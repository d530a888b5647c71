"""Normalisation layers by name, and batch normalisation whose statistics and weights stand still."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.layers.sync_norm import SyncBatchNorm

NormName = Literal["FrozenBN", "BN", "SyncBN", "GN"]
"""The norms that an option may name; see ``make_norm``."""

M = TypeVar("M", bound=nn.Module)


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics and a fixed affine map: a scale and a shift for each channel.

    Equals ``nn.BatchNorm2d`` in evaluation mode, also while its parent trains. Everything is a buffer, so no
    optimizer sees it, and the names are those of ``nn.BatchNorm2d``, so the state dict of one loads into the other.

    Args:
        num_features: channels.
        eps: added to the variance.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.num_features, self.eps = num_features, eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        """The map as ``x * scale + shift``; both ``(C,)``."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, torch.addcmul(self.bias, self.running_mean, scale, value=-1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        """Channels and epsilon, for ``print(model)``."""
        return f"{self.num_features}, eps={self.eps}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)  # of a plain BatchNorm; means nothing here
        super()._load_from_state_dict(state_dict, prefix, *args)


def frozen_copy(norm: nn.modules.batchnorm._BatchNorm) -> FrozenBatchNorm2d:
    """The frozen norm with the statistics, weights, epsilon and device of a batch norm."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(f"{norm} keeps no running statistics, so it cannot be frozen")
    frozen = FrozenBatchNorm2d(norm.num_features, norm.eps).to(norm.running_mean.device)
    frozen.running_mean, frozen.running_var = norm.running_mean.detach().clone(), norm.running_var.detach().clone()
    if norm.affine:
        frozen.weight, frozen.bias = norm.weight.detach().clone(), norm.bias.detach().clone()
    return frozen


def freeze(module: M) -> M:
    """Stops a module from learning: no parameter asks for a gradient, every batch norm becomes a frozen one.

    Returns:
        ``module``, changed in place; the frozen norm where ``module`` itself is a batch norm.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return replace_modules(module, nn.modules.batchnorm._BatchNorm, frozen_copy)


def replace_modules(module: M, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> M:
    """Puts ``make(child)`` in the place of every descendant that is a ``kind``, and of ``module`` itself if it is one.

    Returns:
        ``module``, changed in place, or what takes its place.
    """
    if isinstance(module, kind):
        return make(module)  # type: ignore[return-value]
    for name, child in module.named_children():
        setattr(module, name, replace_modules(child, kind, make))
    return module


def num_groups(channels: int, most: int = 32) -> int:
    """The largest number of groups up to ``most`` that divides ``channels``."""
    return next(n for n in range(min(most, channels), 0, -1) if channels % n == 0)


_MAKERS: dict[str, Callable[[int, float], nn.Module]] = {
    "FrozenBN": lambda channels, eps: FrozenBatchNorm2d(channels, eps=eps),
    "BN": lambda channels, eps: nn.BatchNorm2d(channels, eps=eps),
    "SyncBN": lambda channels, eps: SyncBatchNorm(channels, eps=eps),
    "GN": lambda channels, eps: nn.GroupNorm(num_groups(channels), channels, eps=eps),
}


def make_norm(norm: NormName | None, channels: int, eps: float = 1e-5) -> nn.Module | None:
    """A normalisation layer for ``(N, C, H, W)``.

    ``GN`` (Wu and He 2018) has 32 groups, and where 32 does not divide the channels, the largest number below that
    does. ``SyncBN`` takes its statistics over the batches of all processes; in one it is plain batch normalisation.

    Args:
        norm: which; None for none.
        channels: C.
        eps: added to the variance.

    Raises:
        ValueError: there is no norm of that name.
    """
    if norm is None:
        return None
    if norm not in _MAKERS:
        raise ValueError(f"norm: expected one of {', '.join(_MAKERS)} or none, got {norm!r}")
    return _MAKERS[norm](channels, eps)
