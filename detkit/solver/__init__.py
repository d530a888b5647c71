"""Optimizers and learning-rate schedules."""

from detkit.solver.interfaces import LR_SCHEDULES, OPTIMIZERS, LRSchedule, Optimizer
from detkit.solver.optimizers import SGD, AdamW
from detkit.solver.param_groups import GroupRules, parameter_groups
from detkit.solver.schedules import WarmupCosineLR, WarmupMultiStepLR

__all__ = [
    "LR_SCHEDULES",
    "OPTIMIZERS",
    "SGD",
    "AdamW",
    "GroupRules",
    "LRSchedule",
    "Optimizer",
    "WarmupCosineLR",
    "WarmupMultiStepLR",
    "parameter_groups",
]
