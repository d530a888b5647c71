"""The training loop and what happens around it."""

from detkit.engine.extra_hooks import TensorBoardWriter, TorchProfiler
from detkit.engine.hooks import CheckpointHook, EvalHook, MetricsWriter, ProgressBar
from detkit.engine.interfaces import HOOKS, Hook
from detkit.engine.metrics import Metrics
from detkit.engine.trainer import Trainer

__all__ = [
    "HOOKS",
    "CheckpointHook",
    "EvalHook",
    "Hook",
    "Metrics",
    "MetricsWriter",
    "ProgressBar",
    "TensorBoardWriter",
    "TorchProfiler",
    "Trainer",
]
