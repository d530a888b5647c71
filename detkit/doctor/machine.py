"""The machine: whether there is a place to write to, a device, and enough cores."""

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

from detkit.config import ConfigError
from detkit.doctor.interfaces import CHECKS, Check, CheckContext, Finding
from detkit.experiment import torch_device
from detkit.utils.environment import cores


@CHECKS.register()
class OutputFolder(Check):
    """A run's folder that cannot be written, or whose disk has no space for the checkpoints.

    A checkpoint holds the weights and, of those that learn, what the optimizer knows of each: once more with momentum,
    twice with Adam. ``train.checkpoint_keep`` of them stay, and one more while the next is written.

    Fix: another ``train.output_dir``, or space.
    """

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        train = context.experiment.train
        folder = Path(train.output_dir).absolute()
        present = next(path for path in (folder, *folder.parents) if path.exists())
        if not present.is_dir() or not os.access(present, os.W_OK | os.X_OK):
            what = f"{present} is not a folder" if not present.is_dir() else f"{present} cannot be written to"
            yield Finding("error", "train.output_dir", what, "give another train.output_dir")
            return
        if context.model is None:
            return
        size = checkpoint_bytes(context.model, context.experiment.solver.optimizer.cls)
        wanted = size * (train.checkpoint_keep + 2)  # with model_final, and one being written
        free = shutil.disk_usage(present).free
        if free < wanted:
            what = f"{free / 2**30:.1f} GiB are free, the run's checkpoints take about {wanted / 2**30:.1f}"
            fix = "make space, lower train.checkpoint_keep, or give another train.output_dir"
            yield Finding("error" if free < 2 * size else "warning", "train.output_dir", what, fix)


@CHECKS.register()
class Device(Check):
    """A device that is not there, or that cannot compute in the precision that is asked for.

    Fix: ``train.device: auto``, or a precision that the device has.
    """

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        train = context.experiment.train
        try:
            device = torch_device(train.device)
        except ConfigError:
            yield Finding("error", "train.device", f"'{train.device}' is not there", "take auto or cpu")
            return
        if train.precision == "fp16" and device.type == "cpu":
            yield Finding("warning", "train.precision", "fp16 is slow and coarse on a CPU", "take bf16 or fp32")
        if train.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
            yield Finding("warning", "train.precision", "the GPU has no bf16", "take fp16 or fp32")


@CHECKS.register()
class Workers(Check):
    """More loader workers than processor cores, or shared memory too small for their batches.

    They then wait for each other, and each holds memory; batches that find no space come through pipes, more slowly.

    Fix: fewer ``data.num_workers``; a larger /dev/shm.
    """

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        workers = context.experiment.data.num_workers * context.num_processes
        available = cores()
        if workers > available:
            what = f"{workers} workers over all processes, and {available} cores"
            fix = f"set it to {max(1, available // context.num_processes)} or less"
            yield Finding("warning", "data.num_workers", what, fix)
        with contextlib.suppress(OSError):  # a system without it
            shm = shutil.disk_usage("/dev/shm")
            if workers and shm.total < _SMALL_SHM:
                what = (
                    f"/dev/shm has {shm.total >> 20} MiB: batches without space in it come through pipes, more slowly"
                )
                yield Finding("note", "data.num_workers", what, "docker run --shm-size=8g, or --ipc=host")


_SMALL_SHM = 1 << 28
"""Four times what a container has unless told otherwise."""


def checkpoint_bytes(model: torch.nn.Module, optimizer: type) -> int:
    """About how large a training checkpoint is."""
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values() if isinstance(t, torch.Tensor))
    learned = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return weights + learned * (1 if issubclass(optimizer, torch.optim.SGD) else 2)
