"""The training loop and what happens around it."""

from detkit.engine.hooks.ema import ExponentialMovingAverage
from detkit.engine.hooks.freeze_schedule import FreezeSchedule, FreezeStage
from detkit.engine.hooks.periodic import CheckpointHook, EvalHook
from detkit.engine.hooks.pictures import PredictionPictures
from detkit.engine.hooks.precise_bn import PreciseBN
from detkit.engine.hooks.profiler import TorchProfiler
from detkit.engine.hooks.progress_bar import ProgressBar
from detkit.engine.hooks.step_timer import StepTimer
from detkit.engine.hooks.validation_loss import ValidationLoss
from detkit.engine.hooks.wandb_writer import WandbWriter
from detkit.engine.hooks.watched_metric import BestCheckpoint, EarlyStopping
from detkit.engine.hooks.writers import MetricsWriter, TensorBoardWriter
from detkit.engine.interfaces import HOOKS, PARALLELISMS, Hook, Parallelism
from detkit.engine.interruption import Interrupted, Interruption
from detkit.engine.metrics import Metrics
from detkit.engine.parallel import DDP, FSDP
from detkit.engine.summary import describe_batch, summarize
from detkit.engine.trainer import Trainer
from detkit.signals import EXIT_CODE

__all__ = [
    "DDP",
    "EXIT_CODE",
    "FSDP",
    "HOOKS",
    "PARALLELISMS",
    "BestCheckpoint",
    "CheckpointHook",
    "EarlyStopping",
    "EvalHook",
    "ExponentialMovingAverage",
    "FreezeSchedule",
    "FreezeStage",
    "Hook",
    "Interrupted",
    "Interruption",
    "Metrics",
    "MetricsWriter",
    "Parallelism",
    "PreciseBN",
    "PredictionPictures",
    "ProgressBar",
    "StepTimer",
    "TensorBoardWriter",
    "TorchProfiler",
    "Trainer",
    "ValidationLoss",
    "WandbWriter",
    "describe_batch",
    "summarize",
]
