"""Clipping: limits of the gradients."""

import dataclasses

import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Clipping:
    """How gradients are limited; at most one rule.

    Args:
        norm: all gradients together are scaled down to this L2 norm.
        param_norm: each parameter's gradient is scaled down to this L2 norm of its own.
        value: each number of a gradient is cut to within plus and minus this.

    Raises:
        ValueError: a limit that is not positive, or several.
    """

    norm: float | None = None
    param_norm: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            if not limit > 0:
                raise ValueError(f"{name}: expected a positive limit or none, got {limit}")
        if len(self.limits) > 1:
            given = ", ".join(f"{name} {limit}" for name, limit in self.limits.items())
            raise ValueError(f"gradients are clipped by one rule at most, got {given}; set the others to null")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that there are, by the names that trainer and config have for them."""
        named = {"clip_grad_norm": self.norm, "clip_param_norm": self.param_norm, "clip_grad_value": self.value}
        return {name: limit for name, limit in named.items() if limit is not None}

    @torch.no_grad()
    def __call__(self, parameters: list[nn.Parameter], norm: Tensor) -> dict[str, Tensor]:
        """Clips the gradients in place.

        Args:
            parameters: that have gradients.
            norm: 0-d, of all gradients together.

        Returns:
            For the limits of parameters or numbers ``clipped``: the share of them that was over it.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.norm, norm)
        if self.param_norm is not None:
            norms = torch.stack(torch._foreach_norm(gradients))
            torch._foreach_mul_(gradients, list((self.param_norm / (norms + 1e-6)).clamp(max=1).unbind()))
            return {"clipped": (norms > self.param_norm).float().mean()}
        if self.value is not None:
            over = torch.stack([(g.abs() > self.value).sum() for g in gradients]).sum()
            nn.utils.clip_grad_value_(parameters, self.value)
            return {"clipped": over / sum(g.numel() for g in gradients)}
        return {}
