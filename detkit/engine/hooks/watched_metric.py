"""Watching a metric: keeping the best weights of a run, and ending a run that does not get better."""

import contextlib
import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

from detkit.checkpoint import Checkpointer
from detkit.config import Count, NonNegative
from detkit.engine.hooks.periodic import CheckpointHook
from detkit.engine.hooks.writers import output_folder
from detkit.engine.interfaces import HOOKS, Hook, Training
from detkit.engine.metrics import Line
from detkit.registry import ConfigError

logger = logging.getLogger(__name__)

Mode = Literal["max", "min"]


class WatchingHook(Hook):
    """Follows the best value of one metric in the lines of metrics, also through resumes.

    A value that is not finite is no better than any. Before the first that is, the metric could not be measured: that
    is no value at all.

    Args:
        metric: its name in the lines: ``mask/AP``, ``ema/mask/AP``, ``validation/total_loss``.
        mode: whether more or less of it is better.
        min_delta: by how much a value must beat the best one.

    Attributes:
        best, best_step: the best value and the number of its step; None before the first.

    Raises:
        ConfigError: (in training) no line has such a metric, the message lists those that there are; or it could never
            be measured, the message says why.
    """

    def __init__(self, metric: str, mode: Mode, min_delta: float = 0.0):
        super().__init__()
        self.metric, self.mode, self.min_delta = metric, mode, min_delta
        self.best: float | None = None
        self.best_step: int | None = None
        self._seen = self._warned = False
        self._unmeasured: str | None = None  # why there was no value
        self._names: set[str] = set()

    def value_seen(self, trainer: Training, better: bool) -> None:
        """Called with each value of the metric, after ``best`` was updated: whether it is the best so far."""
        raise NotImplementedError

    def after_step(self, trainer: Training) -> None:
        """Warns once where there has been an evaluation without the metric."""
        if trainer.results and self._names and not self._seen and not self._warned:
            logger.warning("%s; waiting for it, as another hook may give it", self._missing())
            self._warned = True

    def after_train(self, trainer: Training) -> None:
        """Makes sure that there has been such a metric, and a value of it."""
        if not trainer.is_last_step or trainer.pending:
            return
        if self._names and not self._seen:
            raise self._missing()
        if self._unmeasured is not None and self.best is None:
            fix = "Watch another metric, or test on data.test_dataset with what it needs"
            raise ConfigError(f"train.hooks: {type(self).__name__}: {self._unmeasured}. {fix}")

    def state_dict(self) -> dict[str, Any]:
        watched = {"name": self.metric, "mode": self.mode}
        return {**watched, "best": self.best, "step": self.best_step, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what ``state_dict`` gave; not where it is of another metric or mode."""
        if self.watches(state):
            self.best, self.best_step = state["best"], state["step"]
            self._seen = state.get("seen", self.best is not None)
            return
        before, now = f"{state['name']} ({state['mode']})", f"{self.metric} ({self.mode})"
        logger.warning("%s: watched %s before and watches %s now: starts again", type(self).__name__, before, now)

    def watches(self, state: dict[str, Any]) -> bool:
        """Whether a state is of this metric and mode."""
        return (state["name"], state["mode"]) == (self.metric, self.mode)

    def on_metrics(self, trainer: Training, line: Line) -> None:
        self._names |= line.keys() - {"iteration"}
        if self.metric in line:
            self._seen, value = True, line[self.metric]
            value = math.nan if value is None else float(value)
            if math.isfinite(value) or self.best is not None:
                self.value_seen(trainer, self._is_better(value, int(line["iteration"])))
            elif self._unmeasured is None:
                self._unmeasured = f"{self.metric} could not be measured ({self._reason(trainer.results) or value})"
                logger.warning("%s; %s waits for a value", self._unmeasured, type(self).__name__)
            return
        family = self.metric.rpartition("/")[0]
        if family and any(name.rpartition("/")[0] == family for name in line):
            raise self._missing()  # mask/APP, where there is mask/AP50

    def _is_better(self, value: float, step: int) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is not None:
            gain = value - self.best if self.mode == "max" else self.best - value
            if not gain > self.min_delta:
                return False
        self.best, self.best_step = value, step
        return True

    def _reason(self, results: Mapping[str, Any]) -> str | None:
        """What an evaluation's results say of why they have no value of the metric."""
        *groups, name = self.metric.split("/")
        for group in groups:
            results = results.get(group) or {}
        return (results.get("reasons") or {}).get(name)

    def _missing(self) -> ConfigError:
        words = f"train.hooks: {type(self).__name__}: no line of metrics has '{self.metric}'"
        return ConfigError(f"{words}; there are {', '.join(sorted(self._names))}")


@HOOKS.register()
class BestCheckpoint(WatchingHook):
    """Writes ``model_best.pth`` whenever a metric is better than ever before in the run.

    The weights are those that the metric is of: ``mask/AP`` the raw ones, ``ema/mask/AP`` the moving averages. Best
    value and step go on through resumes. How often there is a value, the hook says that gives it, such as
    ``train.eval_period`` for the evaluators' metrics.

    Args:
        metric: a name in the lines of metrics.
        mode: whether more or less of it is better.
    """

    def __init__(self, *, metric: str, mode: Mode = "max"):
        super().__init__(metric, mode)

    def before_train(self, trainer: Training) -> None:
        output_folder(trainer, self)

    def value_seen(self, trainer: Training, better: bool) -> None:
        if not better:
            return
        writer = next((hook for hook in trainer.hooks if isinstance(hook, CheckpointHook)), None)  # it knows the config
        writer = writer or CheckpointHook(Checkpointer(output_folder(trainer, self)), None)
        with trainer.weight_sets.get(self.metric.partition("/")[0], contextlib.nullcontext)():
            writer.save("model_best", trainer)

    def after_train(self, trainer: Training) -> None:
        super().after_train(trainer)
        if self.best is not None:
            logger.info("best %s: %.4g at step %d: model_best.pth", self.metric, self.best, self.best_step)


@HOOKS.register()
class EarlyStopping(WatchingHook):
    """Ends training when a metric has not got better for a while.

    The run then gets its final weights and its evaluation as at any end. Count and best value go on through resumes;
    a run that has stopped goes on with ``--resume`` and more patience, or without this hook.

    Args:
        metric: a name in the lines of metrics, such as ``mask/AP``, ``ema/mask/AP`` or ``validation/total_loss``.
        patience: how many values in a row may be no better than the best one before; at the last of them it ends.
        mode: whether more or less of the metric is better.
        min_delta: by how much a value must beat the best one to count as better.
    """

    def __init__(self, *, metric: str, patience: Count, mode: Mode = "max", min_delta: NonNegative = 0.0):
        super().__init__(metric, mode, min_delta)
        self.patience, self.without_gain = patience, 0

    def value_seen(self, trainer: Training, better: bool) -> None:
        self.without_gain = 0 if better else self.without_gain + 1

    def stop_reason(self) -> str | None:
        if self.without_gain < self.patience:
            return None
        return (
            f"{self.metric} has not got better than {self.best} (step {self.best_step}) in {self.without_gain}"
            f" evaluations. To go on, raise EarlyStopping's patience, which is {self.patience} now, or remove it from"
            " train.hooks, and --resume"
        )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "without_gain": self.without_gain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.watches(state):
            self.without_gain = state["without_gain"]
