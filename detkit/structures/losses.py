"""Losses: what a component's ``loss`` gives to the trainer."""

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Losses:
    """Loss terms and figures worth watching.

    Args:
        terms: name -> differentiable 0-d tensor, already weighted; the trainer minimises their sum.
        metrics: name -> detached 0-d tensor, logged later without waiting for the device.
    """

    terms: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    metrics: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def total(self) -> Tensor:
        """The sum of the terms, 0-d."""
        return torch.stack(list(self.terms.values())).sum()

    def __or__(self, other: "Losses") -> "Losses":
        """Both sets of terms and metrics. Raises ValueError where a name stands in both."""
        twice = (self.terms.keys() & other.terms.keys()) | (self.metrics.keys() & other.metrics.keys())
        if twice:
            raise ValueError(f"two components report {sorted(twice)}; a loss or metric name is used once")
        return Losses({**self.terms, **other.terms}, {**self.metrics, **other.metrics})
