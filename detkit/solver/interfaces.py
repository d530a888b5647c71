"""The roles of the solver: Optimizer and LRSchedule."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from detkit.registry import Registry, required


class Optimizer(torch.optim.Optimizer):
    """A torch optimizer that builds its own parameter groups from a model.

    Args:
        model: whose trainable parameters are optimised.
        lr_scale: the factor by which the configured learning rate is multiplied (actual batch size over the one
            that the rate was given for).

    Attributes:
        state, param_groups: as the constructor of ``torch.optim.Optimizer`` sets them, which each calls.
    """

    state: Any
    param_groups: list[dict[str, Any]]

    def __init__(self, model: nn.Module, lr_scale: float):
        raise NotImplementedError

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Called when a config is loaded, before there is a model.

        Args:
            options: all of them, defaults included.

        Raises:
            ValueError: one that makes no sense; a message that begins with ``name: `` is taken for that option's.
        """


class LRSchedule:
    """The learning rate over a run, as a pure function. Holds no state, so there is nothing to resume."""

    def __init__(self) -> None:
        super().__init__()

    @required
    def __call__(self, step: int, max_iter: int) -> float:
        """The factor on every group's base rate for the step numbered ``step`` (0-based) of ``max_iter``."""
        raise NotImplementedError

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Called when a config is loaded: makes one with these options. Raises ValueError as the constructor does."""
        cls(**options)


@runtime_checkable
class Layered(Protocol):
    """A part of a model whose layers may learn at different rates: a backbone."""

    def layers(self) -> Sequence[Sequence[str]]:
        """Names of its submodules and parameters by depth, beginning at the image."""

    def added_layers(self) -> Sequence[str]:
        """Names of those that learn at the full rate, wherever they lie."""


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", Optimizer)
LR_SCHEDULES: Registry[LRSchedule] = Registry("learning-rate schedule", LRSchedule)
