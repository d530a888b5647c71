"""The hooks of every run that act: checkpoints and evaluation. They are made where the run is started."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detkit.checkpoint import Checkpointer
from detkit.engine.interfaces import Hook, Training
from detkit.engine.metrics import flatten
from detkit.engine.step import autocast
from detkit.utils import distributed, rng_state, set_rng_state


class CheckpointHook(Hook):
    """Writes ``checkpoint_<step>.pth`` every period and at the end, and the weights as ``model_final.pth`` at the end.

    Each of the trainer's ``weight_sets`` is written beside them at the end, as ``model_final_<name>.pth``. A training
    that is interrupted leaves a checkpoint at once. Weights after a loss that was not finite are not written: the loss
    is looked at first, and training ends.

    Put this hook after those that change weights and before those that evaluate: what comes after it is done again
    when its checkpoint is resumed, so a failure there costs nothing.

    Args:
        checkpointer: writes them.
        period: steps between checkpoints; None: ``model_final.pth`` only.
        config: the run's complete config as plain data.
        class_names: None takes the model's own.

    Raises:
        ValueError: ``period`` is below 1.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        period: int | None,
        *,
        config: Mapping[str, Any] | None = None,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__()
        self.checkpointer, self.period = checkpointer, _period("checkpoint period", period)
        self.config, self.class_names = config, class_names

    def after_step(self, trainer: Training) -> None:
        """Writes where it is time."""
        if self.period is not None and _is_due(trainer, self.period):
            self._save_all(trainer)
        if trainer.is_last_step:
            self._save_final(trainer)

    def after_stop(self, trainer: Training) -> None:
        """Writes what the last step of any training leaves."""
        if self.period is not None:
            self._save_all(trainer)
        self._save_final(trainer)

    def on_interrupt(self, trainer: Training) -> None:
        """Writes a checkpoint, whatever the period."""
        self._save_all(trainer)

    def save_weights(self, name: str, trainer: Training) -> None:
        """Writes the weights that the model has now as ``name.pth``, with the run's config and class names."""
        self._save(name, trainer, None)

    def _save_all(self, trainer: Training) -> None:
        trainer.check_finite()
        self._save(f"checkpoint_{trainer.step:07d}", trainer, trainer.state_dict())

    def _save_final(self, trainer: Training) -> None:
        trainer.check_finite()
        self.save_weights("model_final", trainer)
        for name, weights in trainer.weight_sets.items():
            with weights():
                self.save_weights(f"model_final_{name}", trainer)

    def _save(self, name: str, trainer: Training, state: dict[str, Any] | None) -> None:
        self.checkpointer.save(
            name, trainer.model, trainer_state=state, config=self.config, class_names=self.class_names
        )


class EvalHook(Hook):
    """Evaluates every period and at the end.

    The raw weights are evaluated, and then each of the trainer's ``weight_sets``. The results go to
    ``trainer.results``, those of a set under its name, and their metrics as a line:
    ``{"iteration", "box/AP", ..., "ema/box/AP", ...}``, on all ranks. Evaluating leaves the random state of training as
    it was. All ranks evaluate. How long it takes counts for the time that is left.

    Args:
        evaluate: gives nested results; {} on other ranks than 0.
        period: steps between evaluations; None: at the end only.

    Raises:
        ValueError: ``period`` is below 1.
    """

    def __init__(self, evaluate: Callable[[], dict[str, Any]], period: int | None = None):
        super().__init__()
        self.evaluate, self.period = evaluate, _period("eval period", period)
        self._seconds: float | None = None  # of the last evaluation
        self._evaluated = 0  # steps that were finished then

    def seconds_left(self, trainer: Training) -> float | None:
        """What evaluations until the end will take, each as long as the last one; None before the first."""
        period = self.period or trainer.max_iter
        left = 0 if trainer.is_last_step else math.ceil(trainer.max_iter / period) - trainer.finished // period
        left += _is_due(trainer, self.period) and self._evaluated != trainer.finished
        if left == 0:
            return 0.0
        return None if self._seconds is None else left * self._seconds

    def evaluates(self, trainer: Training) -> bool:
        """Whether it is time."""
        return _is_due(trainer, self.period)

    def after_step(self, trainer: Training) -> None:
        """Evaluates where it is time."""
        if _is_due(trainer, self.period):
            self._run(trainer)

    def after_stop(self, trainer: Training) -> None:
        """Evaluates the last step's weights, unless that is just done."""
        if self._evaluated != trainer.finished:
            self._run(trainer)

    def _run(self, trainer: Training) -> None:
        trainer.check_finite()
        state, start = rng_state(), time.perf_counter()
        try:
            results = self._results(trainer)
            for name, weights in trainer.weight_sets.items():
                with weights():
                    results[name] = self._results(trainer)
        finally:
            set_rng_state(state)
            trainer.model.train()
        self._seconds, self._evaluated = time.perf_counter() - start, trainer.finished
        trainer.results = distributed.all_gather_object(results)[0]
        metrics = flatten(trainer.results)
        if metrics:
            trainer.metrics.publish({"iteration": trainer.step, **metrics})

    def _results(self, trainer: Training) -> dict[str, Any]:
        with autocast(
            trainer.device, trainer.training_step.precision
        ):  # which keeps weights that it has cast: a new one for each set
            return self.evaluate()

    def state_dict(self) -> dict[str, Any]:
        """How long an evaluation takes."""
        return {"seconds": self._seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what ``state_dict`` gave."""
        self._seconds = state.get("seconds")


def _period(name: str, period: int | None) -> int | None:
    if period is not None and period < 1:
        raise ValueError(f"{name}: expected at least 1 step (or None, which is the end of training), got {period}")
    return period


def _is_due(trainer: Training, period: int | None) -> bool:
    return trainer.is_last_step or (period is not None and trainer.finished % period == 0)
