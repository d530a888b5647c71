"""How it is trained: learning rate, batches, schedule."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from detkit.doctor.interfaces import CHECKS, Check, CheckContext, Finding
from detkit.layers import SyncBN

SGD_RATE = 0.02 / 16
"""The rate an image that detection with SGD and momentum is trained at (Detectron2, torchvision)."""
SGD_SPAN = (1 / 200, 4.0)
"""How far from it a rate may be; fine-tuning goes low, and matterport's 0.001 for 2 images is 0.4 of it."""
ADAM_SPAN = (1e-6, 1e-2)
"""Rates of Adam that train; the presets have 0.0001 to 0.002."""


@CHECKS.register()
class LearningRate(Check):
    """A learning rate that is far from what its kind of optimizer takes at that number of images a step.

    ``solver.lr_batch_size`` scales the rate in proportion to the images of a step; with null it is taken as it stands,
    and a rate for 16 images on steps of 2 diverges within a hundred steps.

    Fix: leave ``lr_batch_size`` at the number of images that the rate is given for, or scale the rate by hand.
    """

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        experiment, images = context.experiment, context.experiment.images_per_step
        optimizer = experiment.solver.optimizer.cls
        rate = experiment.solver.optimizer.kwargs.get("lr", math.nan) * experiment.lr_scale
        if issubclass(optimizer, torch.optim.SGD):
            usual = SGD_RATE * images
            low, high = (factor * usual for factor in SGD_SPAN)
        elif issubclass(optimizer, torch.optim.Adam | torch.optim.AdamW):
            (low, high), usual = ADAM_SPAN, 1e-4
        else:
            return
        if low <= rate <= high:
            return
        given = experiment.solver.lr_batch_size
        scaled = "taken as it stands (lr_batch_size: null)" if given is None else f"scaled from {given} images"
        what = f"{optimizer.__name__}'s rate is {rate:.3g} for {images} images a step, {scaled}; usual: {usual:.3g}"
        fix = "set lr_batch_size to the images that lr is given for" if given is None else "correct lr or lr_batch_size"
        yield Finding("warning", "solver.optimizer.lr", what, fix)


@CHECKS.register()
class Batches(Check):
    """Batches that do not divide over the processes, or that leave batch norms a single image.

    A batch norm that is not frozen takes its statistics from its process's images alone.

    Fix: a multiple of the number of processes; frozen norms, group norms or larger batches.
    """

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        size, processes = context.experiment.data.batch_size, context.num_processes
        if size % processes:
            fix = f"take a multiple of {processes}"
            yield Finding("error", "data.batch_size", f"{size} images do not divide over {processes} processes", fix)
        elif size == processes and context.model is not None:
            modules = context.model.named_modules()
            norms = [name for name, module in modules if _learns_from_batch(module, processes)]
            if norms:
                what = "batch norms that are not frozen see a single image at a time"
                others = "GN, SyncBN or FrozenBN" if processes > 1 else "GN or FrozenBN"
                yield Finding("warning", "data.batch_size", what, f"norm: {others}, or larger batches", norms)


@CHECKS.register()
class Schedule(Check):
    """Periods and a warm-up that are longer than the run.

    The warm-up is cut to half the run; an evaluation or a checkpoint whose period is longer than the run comes at its
    end only, and a crash before it loses everything.

    Fix: shorter periods, or more steps.
    """

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        steps, train = context.max_iter, context.experiment.train
        if steps is None:
            return
        warmup = context.experiment.solver.schedule.kwargs.get("warmup_iters", 0)
        if isinstance(warmup, int) and warmup > steps // 2:
            what = f"the warm-up of {warmup} steps is cut to half of the run's {steps}"
            fix = f"set warmup_iters to {max(1, steps // 20)} or so, or train longer"
            yield Finding("warning", "solver.schedule.warmup_iters", what, fix)
        for name, severity in (("eval_period", "warning"), ("checkpoint_period", "note"), ("log_period", "note")):
            period = getattr(train, name)
            if isinstance(period, int) and period > steps:
                what = f"every {period} steps, but the run has {steps}: it comes at the end only"
                yield Finding(severity, f"train.{name}", what, f"set it to {steps} or less")  # type: ignore[arg-type]


def _learns_from_batch(module: nn.Module, processes: int) -> bool:
    """Whether it is a norm over the images of one of so many processes."""
    synchronised = processes > 1 and isinstance(module, SyncBN | nn.SyncBatchNorm)
    batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm) and not synchronised
    return batch_norm and (not module.affine or any(p.requires_grad for p in module.parameters(recurse=False)))
