"""The roles of the solver: Optimizer and LRSchedule."""

import torch
from torch import nn

from detkit.registry import Registry


class Optimizer(torch.optim.Optimizer):
    """A torch optimizer that builds its own parameter groups from a model.

    Args:
        model: whose trainable parameters are optimised.
        lr_scale: the factor by which the configured learning rate is multiplied (actual batch size over the one
            that the rate was given for).
    """

    def __init__(self, model: nn.Module, lr_scale: float):
        raise NotImplementedError


class LRSchedule:
    """The learning rate over a run, as a pure function. Holds no state, so there is nothing to resume."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, step: int, max_iter: int) -> float:
        """The factor on every group's base rate for the step numbered ``step`` (0-based) of ``max_iter``."""
        raise NotImplementedError


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", Optimizer)
LR_SCHEDULES: Registry[LRSchedule] = Registry("learning-rate schedule", LRSchedule)
