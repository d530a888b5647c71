"""The hooks of every run that act: checkpoints and evaluation. Whoever starts the run makes them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detkit.checkpoint import Checkpointer
from detkit.engine.interfaces import Hook
from detkit.engine.metrics import flatten
from detkit.engine.trainer import Trainer
from detkit.utils import rng_state, set_rng_state


class CheckpointHook(Hook):
    """Writes ``checkpoint_<step>.pth`` every period and at the end, and the weights as ``model_final.pth`` at the end.

    Weights after a loss that was not finite are not written: the loss is looked at first, and training ends. Put this
    hook before those that evaluate, so that a failure there costs nothing.

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

    def after_step(self, trainer: Trainer) -> None:
        """Writes where it is time."""
        if self.period is not None and _is_due(trainer, self.period):
            trainer.check_finite()
            self._save(f"checkpoint_{trainer.step:07d}", trainer, trainer.state_dict())
        if trainer.is_last_step:
            trainer.check_finite()
            self._save("model_final", trainer, None)

    def _save(self, name: str, trainer: Trainer, state: dict[str, Any] | None) -> None:
        self.checkpointer.save(
            name, trainer.model, trainer_state=state, config=self.config, class_names=self.class_names
        )


class EvalHook(Hook):
    """Evaluates every period and at the end.

    The results go to ``trainer.results``, and their figures as a line of metrics: ``{"iteration", "box/AP", ...}``.
    Evaluating leaves the random state of training as it was. All ranks evaluate.

    Args:
        evaluate: gives nested results; {} on other ranks than 0.
        period: steps between evaluations; None: at the end only.

    Raises:
        ValueError: ``period`` is below 1.
    """

    def __init__(self, evaluate: Callable[[], dict[str, Any]], period: int | None = None):
        super().__init__()
        self.evaluate, self.period = evaluate, _period("eval period", period)

    def after_step(self, trainer: Trainer) -> None:
        """Evaluates where it is time."""
        if not _is_due(trainer, self.period):
            return
        trainer.check_finite()
        state = rng_state()
        try:
            trainer.results = self.evaluate()
        finally:
            set_rng_state(state)
            trainer.model.train()
        figures = flatten(trainer.results)
        if figures:
            trainer.metrics.publish({"iteration": trainer.step, **figures})


def _period(name: str, period: int | None) -> int | None:
    if period is not None and period < 1:
        raise ValueError(f"{name}: expected at least 1 step (or None, which is the end of training), got {period}")
    return period


def _is_due(trainer: Trainer, period: int | None) -> bool:
    return trainer.is_last_step or (period is not None and trainer.finished % period == 0)
