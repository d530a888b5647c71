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


class PeriodicHook(Hook):
    """Does something after every ``period``-th step and after the last one, also where training stops early.

    Args:
        period: steps between; None: see ``with_evaluations``.
        with_evaluations: whether, without a period, it does it before each evaluation of the weights.

    Raises:
        ValueError: ``period`` is below 1.
    """

    def __init__(self, period: int | None = None, *, with_evaluations: bool = False):
        super().__init__()
        if period is not None and period < 1:
            raise ValueError(f"{type(self).__name__}: expected a period of at least 1 step, or none, got {period}")
        self.period, self.with_evaluations = period, with_evaluations
        self._done = -1  # steps that were finished then

    def run(self, trainer: Training) -> None:
        """What is done then."""
        raise NotImplementedError

    def is_due(self, trainer: Training) -> bool:
        """In ``after_step``: whether it is done after this step."""
        if trainer.is_last_step:
            return True
        if self.period is None:
            return self.with_evaluations and trainer.evaluates
        return trainer.finished % self.period == 0

    def after_step(self, trainer: Training) -> None:
        if self.is_due(trainer):
            self.run(trainer)
            self._done = trainer.finished

    def after_stop(self, trainer: Training) -> None:
        if self._done != trainer.finished:
            self.run(trainer)
            self._done = trainer.finished


class CheckpointHook(PeriodicHook):
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
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        period: int | None,
        *,
        config: Mapping[str, Any] | None = None,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(period)
        self.checkpointer, self.config, self.class_names = checkpointer, config, class_names

    def run(self, trainer: Training) -> None:
        """Writes the weights after the last step, and then a checkpoint: from that on they are not written again."""
        if trainer.is_last_step:
            trainer.check_finite()
            self.save("model_final", trainer)
            for name, weights in trainer.weight_sets.items():
                with weights():
                    self.save(f"model_final_{name}", trainer)
        if self.period is not None:
            self.save_checkpoint(trainer)

    def after_stop(self, trainer: Training) -> None:
        """Writes what the last step of any training leaves, also where it has written a checkpoint of it."""
        self.run(trainer)

    def on_interrupt(self, trainer: Training) -> None:
        self.save_checkpoint(trainer)

    def save_checkpoint(self, trainer: Training) -> None:
        """Writes what a resume goes on from, whatever the period."""
        trainer.check_finite()
        self.save(f"checkpoint_{trainer.step:07d}", trainer, trainer.state_dict())

    def save(self, name: str, trainer: Training, state: dict[str, Any] | None = None) -> None:
        """Writes the weights that the model has now as ``name.pth``, with the run's config and class names."""
        self.checkpointer.save(
            name, trainer.model, trainer_state=state, config=self.config, class_names=self.class_names
        )


class EvalHook(PeriodicHook):
    """Evaluates every period and at the end.

    The raw weights are evaluated, and then each of the trainer's ``weight_sets``. The results go to
    ``trainer.results``, those of a set under its name, and their metrics as a line:
    ``{"iteration", "box/AP", ..., "ema/box/AP", ...}``, on all ranks. Evaluating leaves the random state of training as
    it was. All ranks evaluate. How long it takes counts for the time that is left.

    Args:
        evaluate: gives nested results; {} on other ranks than 0.
        period: steps between evaluations; None: at the end only.
    """

    def __init__(self, evaluate: Callable[[], dict[str, Any]], period: int | None = None):
        super().__init__(period)
        self.evaluate = evaluate
        self._seconds: float | None = None  # of the last evaluation

    def seconds_left(self, trainer: Training) -> float | None:
        """What evaluations until the end will take, each as long as the last one; None before the first."""
        period = self.period or trainer.max_iter
        left = 0 if trainer.is_last_step else math.ceil(trainer.max_iter / period) - trainer.finished // period
        left += self.is_due(trainer) and self._done != trainer.finished
        if left == 0:
            return 0.0
        return None if self._seconds is None else left * self._seconds

    def evaluates(self, trainer: Training) -> bool:
        return self.is_due(trainer)

    def run(self, trainer: Training) -> None:
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
        self._seconds = time.perf_counter() - start
        trainer.results = distributed.all_gather_object(results)[0]
        metrics = flatten(trainer.results)
        if metrics:
            trainer.publish({"iteration": trainer.step, **metrics})

    def _results(self, trainer: Training) -> dict[str, Any]:
        # A new context for each set of weights, as it keeps those that it has cast.
        with autocast(trainer.device, trainer.training_step.precision):
            return self.evaluate()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seconds = state.get("seconds")
