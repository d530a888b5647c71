"""How much of a step's time data, forward and backward pass, optimizer and hooks take."""

import logging
import time
from typing import Any

import torch
from tabulate import tabulate

from detkit.config import Count
from detkit.engine.interfaces import HOOKS, Hook, Training
from detkit.utils import distributed

logger = logging.getLogger(__name__)

PARTS = ("data", "forward", "backward", "optimizer", "hooks")
_STEPS_HELD = 100


@HOOKS.register()
class StepTimer(Hook):
    """A table in the log: how much of a step's time goes into data, forward, backward, optimizer and hooks.

    ``data`` is waiting for the batch and copying it to the device; ``backward`` includes clipping; ``hooks`` is
    everything after the update: evaluations, checkpoints, writing and logging. Together they are the time of training
    from step to step, without the first step of this process. On a CUDA device its own clock is taken. Costs some ten
    microseconds a step. Rank 0 only.

    Args:
        period: steps between tables, each of the steps since the one before; null: one at the end.
    """

    optional = True

    def __init__(self, *, period: Count | None = None):
        super().__init__()
        self.period = period
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.steps = 0
        self._marks: list[tuple[str, Any]] = []  # where a part begins, and when
        self._in_step = False
        self._started = False
        self._on_gpu = False
        self._handles: list[Any] = []

    def before_train(self, trainer: Training) -> None:
        if not distributed.is_main():
            return
        self._on_gpu, self._started, self._marks = trainer.device.type == "cuda", False, []
        self._handles = [
            trainer.model.register_forward_pre_hook(lambda *_: self._begin("forward")),
            trainer.model.register_forward_hook(lambda *_: self._begin("backward")),
            trainer.optimizer.register_step_pre_hook(lambda *_: self._begin("optimizer")),
            trainer.optimizer.register_step_post_hook(lambda *_: self._end()),
        ]

    def before_step(self, trainer: Training) -> None:
        if not self._handles:
            return
        self._in_step = True
        if self._started:  # the first step starts the loader and warms caches
            self._mark("data")
            self.steps += len(self._marks) > 1
            if self.steps % _STEPS_HELD == 0 or self.steps == self.period:
                self._settle()
            if self.steps == self.period:
                self._report()
        self._started = True

    def after_train(self, trainer: Training) -> None:
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        self._handles, self._in_step = [], False
        if len(self._marks) > 1:
            self._mark("data")
            self.steps += 1
            self._settle()
        if self.steps:
            self._report()

    def _begin(self, part: str) -> None:
        if self._in_step and self._marks:  # else the model is at work for an evaluation
            self._mark(part)

    def _end(self) -> None:
        self._begin("hooks")
        self._in_step = False

    def _mark(self, part: str) -> None:
        now: Any = torch.cuda.Event(enable_timing=True) if self._on_gpu else time.perf_counter()
        if self._on_gpu:
            now.record()
        self._marks.append((part, now))

    def _settle(self) -> None:
        """Adds up what lies between marks; the last one stays as the beginning of the next."""
        if self._on_gpu:
            self._marks[-1][1].synchronize()
        for (part, start), (_, end) in zip(self._marks, self._marks[1:]):
            self.seconds[part] += start.elapsed_time(end) / 1e3 if self._on_gpu else end - start
        del self._marks[:-1]

    def _report(self) -> None:
        total = sum(self.seconds.values()) or 1.0
        names = {"hooks": "evaluation, checkpoints, other hooks"}
        rows = [(names.get(part, part), 1e3 * s / self.steps, f"{s / total:.1%}") for part, s in self.seconds.items()]
        rows.append(("all", 1e3 * total / self.steps, "100.0%"))
        table = tabulate(rows, ("", "ms a step", "share"), floatfmt=".1f", colalign=("left", "right", "right"))
        logger.info("where the time of %d steps went\n%s", self.steps, table)
        self.seconds, self.steps = dict.fromkeys(PARTS, 0.0), 0
