"""Watching a metric: keeping the best weights of a run, and ending a run that does not get better."""

import contextlib
import logging
import math
from typing import Any, Literal

from detkit.checkpoint import Checkpointer
from detkit.engine.hooks.periodic import CheckpointHook
from detkit.engine.interfaces import HOOKS, Hook, Training
from detkit.engine.metrics import Line
from detkit.registry import ConfigError

logger = logging.getLogger(__name__)

Mode = Literal["max", "min"]


class WatchedMetric:
    """The best value of one metric in the lines of metrics.

    Args:
        owner: who watches, for messages.
        name: of the metric, as it stands in the lines: ``mask/AP``, ``ema/mask/AP``, ``validation/total_loss``.
        mode: whether more or less of it is better.
        min_delta: by how much a value must beat the best one.

    Raises:
        ValueError: ``min_delta`` is negative.
    """

    def __init__(self, owner: str, name: str, mode: Mode, min_delta: float = 0.0):
        if not min_delta >= 0:
            raise ValueError(f"{owner}: expected min_delta of at least 0, got {min_delta}")
        self.owner, self.name, self.mode, self.min_delta = owner, name, mode, min_delta
        self.best: float | None = None
        self.step: int | None = None
        self._names: set[str] = set()
        self._warned = False

    def better(self, line: Line) -> bool | None:
        """Takes a line. True: its value is the best so far; False: it is not; None: the line has no such value.

        A value that is not a number is no better than any.

        Raises:
            ConfigError: the line has the metric's sisters (``mask/AP50`` for ``mask/APP``) and not the metric.
        """
        self._names |= line.keys() - {"iteration"}
        if self.name not in line:
            family = self.name.rpartition("/")[0]
            if family and any(name.rpartition("/")[0] == family for name in line):
                raise self._missing()
            return None
        value = float(line[self.name])
        gain = -math.inf if self.best is None else value - self.best if self.mode == "max" else self.best - value
        if math.isnan(value) or (self.best is not None and not gain > self.min_delta):
            return False
        self.best, self.step = value, int(line["iteration"])
        return True

    def check(self, *, evaluated: bool, ended: bool) -> None:
        """Warns once when there has been an evaluation without the metric; raises ConfigError at the end."""
        if self.name in self._names or not self._names:
            return
        if ended:
            raise self._missing()
        if evaluated and not self._warned:
            logger.warning("%s; waiting for it, as another hook may give it", self._missing())
            self._warned = True

    def state_dict(self) -> dict[str, Any]:
        """Best value and step, and of which metric."""
        return {"name": self.name, "mode": self.mode, "best": self.best, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Takes what ``state_dict`` gave; not, and gives False, where it is of another metric or mode."""
        if (state["name"], state["mode"]) != (self.name, self.mode):
            logger.warning(
                "%s: watched %s (%s) before and watches %s (%s) now: starts again",
                *(self.owner, state["name"], state["mode"], self.name, self.mode),
            )
            return False
        self.best, self.step = state["best"], state["step"]
        return True

    def _missing(self) -> ConfigError:
        known = ", ".join(sorted(self._names))
        return ConfigError(f"train.hooks: {self.owner}: no line of metrics has '{self.name}'; there are {known}")


@HOOKS.register()
class BestCheckpoint(Hook):
    """Writes ``model_best.pth`` whenever a metric is better than ever before in the run.

    The weights are those that the metric is of: ``mask/AP`` the raw ones, ``ema/mask/AP`` the moving averages. Best
    value and step go on through resumes. How often there is a value, the hook says that gives it, such as
    ``train.eval_period`` for the evaluators' metrics.

    Args:
        metric: a name in the lines of metrics.
        mode: whether more or less of it is better.

    Raises:
        ConfigError: (in training) no line has such a metric; the message lists those that there are.
    """

    def __init__(self, *, metric: str, mode: Mode = "max"):
        super().__init__()
        self.watched = WatchedMetric("BestCheckpoint", metric, mode)
        self._trainer: Training | None = None

    def before_train(self, trainer: Training) -> None:
        """Begins to listen."""
        if trainer.output_dir is None:
            raise ValueError("BestCheckpoint: the trainer has no output_dir to write to")
        self._trainer = trainer
        trainer.metrics.subscribe(self._look)

    def after_step(self, trainer: Training) -> None:
        """Looks whether there is such a metric."""
        self.watched.check(evaluated=bool(trainer.results), ended=False)

    def after_train(self, trainer: Training) -> None:
        """Says what was best."""
        self._trainer = None
        self.watched.check(evaluated=True, ended=trainer.is_last_step)
        if self.watched.best is not None:
            logger.info(
                "best %s: %.4g at step %d: model_best.pth", self.watched.name, self.watched.best, self.watched.step
            )

    def state_dict(self) -> dict[str, Any]:
        """Best value and step."""
        return self.watched.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what ``state_dict`` gave."""
        self.watched.load_state_dict(state)

    def _look(self, line: Line) -> None:
        trainer = self._trainer
        if trainer is None or not self.watched.better(line):
            return
        weights = trainer.weight_sets.get(self.watched.name.partition("/")[0], contextlib.nullcontext)
        with weights():
            _writer(trainer).save_weights("model_best", trainer)


def _writer(trainer: Training) -> CheckpointHook:
    """The hook that writes the run's other weights, which knows its config."""
    found = next((hook for hook in trainer.hooks if isinstance(hook, CheckpointHook)), None)
    assert trainer.output_dir is not None
    return found or CheckpointHook(Checkpointer(trainer.output_dir), None)


@HOOKS.register()
class EarlyStopping(Hook):
    """Ends training when a metric has not got better for a while.

    The run then gets its final weights and its evaluation as at any end. Count and best value go on through resumes;
    a run that has stopped goes on with ``--resume`` and more patience, or without this hook.

    Args:
        metric: a name in the lines of metrics, such as ``mask/AP``, ``ema/mask/AP`` or ``validation/total_loss``.
        patience: how many values in a row may be no better than the best one before; at the last of them it ends.
        mode: whether more or less of the metric is better.
        min_delta: by how much a value must beat the best one to count as better.

    Raises:
        ValueError: a number that makes no sense.
        ConfigError: (in training) no line has such a metric; the message lists those that there are.
    """

    def __init__(self, *, metric: str, patience: int, mode: Mode = "max", min_delta: float = 0.0):
        super().__init__()
        if patience < 1:
            raise ValueError(f"EarlyStopping: expected a patience of at least 1 evaluation, got {patience}")
        self.watched = WatchedMetric("EarlyStopping", metric, mode, min_delta)
        self.patience, self.without_gain = patience, 0

    def before_train(self, trainer: Training) -> None:
        """Begins to listen."""
        trainer.metrics.subscribe(self._look)

    def after_step(self, trainer: Training) -> None:
        """Looks whether there is such a metric."""
        self.watched.check(evaluated=bool(trainer.results), ended=False)

    def after_train(self, trainer: Training) -> None:
        """Looks whether there has been such a metric at all."""
        self.watched.check(evaluated=True, ended=trainer.is_last_step)

    def stop_reason(self) -> str | None:
        """Why it ends, and how to go on."""
        watched = self.watched
        if self.without_gain < self.patience:
            return None
        return (
            f"{watched.name} has not got better than {watched.best} (step {watched.step}) in {self.without_gain}"
            f" evaluations. To go on, raise EarlyStopping's patience, which is {self.patience} now, or remove it from"
            " train.hooks, and --resume"
        )

    def state_dict(self) -> dict[str, Any]:
        """Best value and step, and how many values have been no better since."""
        return {**self.watched.state_dict(), "without_gain": self.without_gain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what ``state_dict`` gave."""
        self.without_gain = state["without_gain"] if self.watched.load_state_dict(state) else 0

    def _look(self, line: Line) -> None:
        better = self.watched.better(line)
        if better is not None:
            self.without_gain = 0 if better else self.without_gain + 1
