"""The training loop and what happens around it."""

from detkit.engine.extra_hooks import TensorBoardWriter, TorchProfiler
from detkit.engine.freeze_schedule import FreezeSchedule, FreezeStage
from detkit.engine.hooks import CheckpointHook, EvalHook, MetricsWriter, ProgressBar
from detkit.engine.interfaces import HOOKS, Hook
from detkit.engine.metrics import Metrics
from detkit.engine.summary import describe_batch, summarize
from detkit.engine.trainer import Trainer

__all__ = [
    "HOOKS",
    "CheckpointHook",
    "EvalHook",
    "FreezeSchedule",
    "FreezeStage",
    "Hook",
    "Metrics",
    "MetricsWriter",
    "ProgressBar",
    "TensorBoardWriter",
    "TorchProfiler",
    "Trainer",
    "describe_batch",
    "summarize",
]
