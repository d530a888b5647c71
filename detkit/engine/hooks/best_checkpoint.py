"""Keeping the best weights of a run."""

import contextlib
import logging
from typing import Any

from detkit.checkpoint import Checkpointer
from detkit.engine.hooks.periodic import CheckpointHook
from detkit.engine.hooks.watched_metric import Mode, WatchedMetric
from detkit.engine.interfaces import HOOKS, Hook, Training
from detkit.engine.metrics import Line

logger = logging.getLogger(__name__)


@HOOKS.register()
class BestCheckpoint(Hook):
    """Writes ``model_best.pth`` whenever a metric is better than ever before in the run.

    The weights are those that the metric is of: ``mask/AP`` the raw ones, ``ema/mask/AP`` the moving averages. Best
    value and step go on through resumes. How often there is a value, the hook says that gives it, such as
    ``train.eval_period`` for the evaluators' figures.

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
