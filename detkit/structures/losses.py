"""Losses: what a component's ``loss`` gives to the trainer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Losses:
    """Loss terms, and metrics worth watching.

    Args:
        terms: name -> differentiable 0-d tensor, already weighted; the trainer minimises their sum.
        metrics: name -> detached 0-d tensor, logged later without waiting for the device; NaN: nothing to measure.
        normalisers: name of a term -> detached 0-d tensor: the number of things (samples, objects) that the term is a
            mean over. The term is their sum divided by ``max(normaliser, 1)``, so that the means of several batches
            combine to the mean over all of them. A term without a normaliser is a mean over the batch's images; a term
            has one in every batch or in none. A constant factor on all normalisers of a term means nothing.

    Raises:
        ValueError: a normaliser of a term that is not there, or a value that is no 0-d tensor.
    """

    terms: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    metrics: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    normalisers: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(self.normalisers.keys() - self.terms.keys())
        if unknown:
            raise ValueError(f"normalisers for {unknown}, but the loss terms are {sorted(self.terms)}")
        for field in dataclasses.fields(self):
            for name, value in getattr(self, field.name).items():
                if not isinstance(value, Tensor) or value.ndim:
                    given = f"one of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:80]
                    raise ValueError(f"Losses.{field.name}: expected a 0-d tensor as '{name}', got {given}")

    def total(self) -> Tensor:
        """The sum of the terms, 0-d."""
        return torch.stack(list(self.terms.values())).sum()

    def rescaled(self, factors: Mapping[str, Tensor] | float, default: str = "") -> "Losses":
        """The same with each term times its factor; a term that has none takes that of the name ``default``."""
        if not isinstance(factors, Mapping):
            return dataclasses.replace(self, terms={name: value * factors for name, value in self.terms.items()})
        named = {name: factors[name if name in factors else default] for name in self.terms}
        terms = {name: value * named[name].to(value.dtype) for name, value in self.terms.items()}
        return dataclasses.replace(self, terms=terms)

    def values(self) -> dict[str, float]:
        """Terms and metrics as numbers; on a GPU this waits for the device."""
        return {name: float(value.detach()) for name, value in {**self.terms, **self.metrics}.items()}

    def __or__(self, other: "Losses") -> "Losses":
        """Both sets of terms, metrics and normalisers. Raises ValueError where a name stands in both, or where one of
        the two, a part's ``loss``, is something else."""
        if not isinstance(other, Losses):
            raise ValueError(f"loss: expected Losses({{name: term}}) of each part of the model, got {other!r:.200}")
        twice = (self.terms.keys() & other.terms.keys()) | (self.metrics.keys() & other.metrics.keys())
        if twice:
            raise ValueError(f"two components report {sorted(twice)}; a loss or metric name is used once")
        return Losses(
            {**self.terms, **other.terms},
            {**self.metrics, **other.metrics},
            {**self.normalisers, **other.normalisers},
        )

    def __ror__(self, other: Any) -> "Losses":
        return self | other
