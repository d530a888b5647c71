"""The training loop and what happens around it."""

from detkit.engine.best_checkpoint import BestCheckpoint
from detkit.engine.early_stopping import EarlyStopping
from detkit.engine.ema import ExponentialMovingAverage
from detkit.engine.freeze_schedule import FreezeSchedule, FreezeStage
from detkit.engine.hooks import CheckpointHook, EvalHook
from detkit.engine.interfaces import HOOKS, PARALLELISMS, Hook, Parallelism
from detkit.engine.interruption import EXIT_CODE, Interrupted, Interruption
from detkit.engine.metrics import Metrics
from detkit.engine.parallel import DDP, FSDP
from detkit.engine.pictures import PredictionPictures
from detkit.engine.precise_bn import PreciseBN
from detkit.engine.profiler import TorchProfiler
from detkit.engine.progress_bar import ProgressBar
from detkit.engine.step_timer import StepTimer
from detkit.engine.summary import describe_batch, summarize
from detkit.engine.trainer import Trainer
from detkit.engine.validation_loss import ValidationLoss
from detkit.engine.wandb_writer import WandbWriter
from detkit.engine.writers import MetricsWriter, TensorBoardWriter

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
