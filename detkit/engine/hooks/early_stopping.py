"""Ending a run that does not get better."""

from typing import Any

from detkit.engine.hooks.watched_metric import Mode, WatchedMetric
from detkit.engine.interfaces import HOOKS, Hook, Training
from detkit.engine.metrics import Line


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
