"""Normalisation layers: the registry of them, and batch normalisation whose statistics and weights are fixed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.ranges import NonNegative, Positive
from detkit.registry import Registry

M = TypeVar("M", bound=nn.Module)


class Norm(nn.Module):
    """A layer that normalises a map ``(N, C, H, W)``. It stands first among the bases of a class that has others."""

    def __init__(self, num_channels: int):
        super().__init__()

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Raises ValueError for a negative epsilon."""
        if not options.get("eps", 0) >= 0:
            raise ValueError(f"eps: expected at least 0, got {options['eps']}")


NORMS: Registry[Norm] = Registry("norm", Norm)


@NORMS.register()
class FrozenBN(Norm):
    """Batch normalisation with fixed statistics and a fixed affine map: a scale and a shift for each channel.

    Equals ``nn.BatchNorm2d`` in evaluation mode, also while its parent trains. Everything is a buffer, so no
    optimizer sees it, and the names are those of ``nn.BatchNorm2d``, so the state dict of one loads into the other.

    Args:
        eps: added to the variance.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_channels: int, *, eps: NonNegative = 1e-5):
        super().__init__(num_channels)
        self.num_features, self.eps = num_channels, eps
        self.register_buffer("weight", torch.ones(num_channels))
        self.register_buffer("bias", torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

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
        state_dict.pop(prefix + "num_batches_tracked", None)  # of nn.BatchNorm2d; means nothing here
        super()._load_from_state_dict(state_dict, prefix, *args)


@NORMS.register()
class BN(Norm, nn.BatchNorm2d):
    """Batch normalisation (Ioffe and Szegedy 2015), by the statistics of this process's batch.

    Args:
        eps: added to the variance.
    """

    def __init__(self, num_channels: int, *, eps: Positive = 1e-5):
        nn.BatchNorm2d.__init__(self, num_channels, eps=eps)


@NORMS.register()
class GN(Norm, nn.GroupNorm):
    """Group normalisation (Wu and He 2018): of 32 groups, or of the largest number below that divides the channels.

    Args:
        eps: added to the variance.
    """

    def __init__(self, num_channels: int, *, eps: Positive = 1e-5):
        groups = next(n for n in range(min(32, num_channels), 0, -1) if num_channels % n == 0)
        nn.GroupNorm.__init__(self, groups, num_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> the same shape. A value that is alone in its group and map is its own mean."""
        if x.shape[1] == self.num_groups and x.shape[-2:] == (1, 1):  # torch refuses that for one image
            return (x - x) * self.weight[:, None, None] + self.bias[:, None, None]
        return nn.GroupNorm.forward(self, x)


@NORMS.register()
class LN(Norm, nn.LayerNorm):
    """Layer normalisation (Ba et al. 2016) over the channels of each place.

    Args:
        eps: added to the variance.
    """

    def __init__(self, num_channels: int, *, eps: Positive = 1e-6):
        nn.LayerNorm.__init__(self, num_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def make_norm(norm: Callable[[int], nn.Module] | str | None, num_channels: int) -> nn.Module | None:
    """A normalisation layer for ``(N, C, H, W)``.

    Args:
        norm: makes it from the number of channels, for example a recipe; or its registered name; None for none.
        num_channels: C.

    Raises:
        ConfigError: there is no norm of that name.
    """
    if isinstance(norm, str):
        return NORMS.get(norm)(num_channels)
    return None if norm is None else norm(num_channels)


def frozen_copy(norm: _BatchNorm) -> FrozenBN:
    """The frozen norm with the statistics, weights, epsilon and device of a batch norm."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(f"{norm} keeps no running statistics, so it cannot be frozen")
    frozen = FrozenBN(norm.num_features, eps=norm.eps).to(norm.running_mean.device)
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
    return replace_modules(module, _BatchNorm, frozen_copy)


def replace_modules(module: M, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> M:
    """Puts ``make(child)`` in the place of every descendant that is a ``kind``, and of ``module`` itself if it is one.

    What that has for children, such as the activation of timm's batch norms, comes after its place's new holder.

    Returns:
        ``module``, changed in place, or what takes its place.
    """
    if isinstance(module, kind):
        new = make(module)
        children = [] if new is module else list(module.named_children())
        for name, child in children:
            new.add_module(name, child)
        if children:
            new.register_forward_hook(_then_children)
        return new  # type: ignore[return-value]
    for name, child in module.named_children():
        setattr(module, name, replace_modules(child, kind, make))
    return module


def _then_children(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    for child in module.children():
        output = child(output)
    return output


@contextmanager
def keep_running_statistics(model: nn.Module) -> Iterator[None]:
    """Within it, norms in training mode still normalise by the batch, and leave their running statistics alone; so does
    every module with an attribute ``track_running_stats``, as torch's norms have it."""
    norms: list[Any] = [m for m in model.modules() if m.training and getattr(m, "track_running_stats", False)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
