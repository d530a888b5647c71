"""The roles of the engine: Hook and Parallelism."""

from typing import TYPE_CHECKING, Any

from torch import nn

from detkit.registry import Registry

if TYPE_CHECKING:
    from detkit.engine.trainer import Trainer


class Hook:
    """Something that happens around training steps. The trainer calls its hooks in the order of its list.

    A hook has no wiring; what it needs the trainer has: the model (``trainer.model``), the losses of a batch
    (``trainer.passes.losses``), training batches (``trainer.batches_from``), the test set's (``trainer.test_batches``).
    Hooks of a config come before the run's own that write checkpoints and evaluate.
    """

    def __init__(self) -> None:
        super().__init__()

    def before_train(self, trainer: "Trainer") -> None:
        """Before the first step of this process (also after a resume)."""

    def before_step(self, trainer: "Trainer") -> None:
        """Before the step numbered ``trainer.step``."""

    def after_step(self, trainer: "Trainer") -> None:
        """After it. ``trainer.losses`` holds the step's Losses."""

    def after_train(self, trainer: "Trainer") -> None:
        """After the last step, also when training ends by an exception."""

    def seconds_left(self, trainer: "Trainer") -> float | None:
        """How long this hook will still take until the end of training, where it is long enough to count.

        Returns:
            Seconds; None where the hook has something long to do and does not know yet how long it takes.
        """
        return 0.0

    def evaluates(self, trainer: "Trainer") -> bool:
        """In ``after_step``, of any hook: whether this hook is going to evaluate the weights after this step."""
        return False

    def stop_reason(self) -> str | None:
        """Why training is to end for good after this step, before ``max_iter``; None where it is not.

        The trainer asks after every step. The answer must be the same on all ranks, and in words that say how to go on
        nevertheless.
        """
        return None

    def after_stop(self, trainer: "Trainer") -> None:
        """After the last step of a training that a hook's ``stop_reason`` ended, once every ``after_step`` is done.

        What a hook does at the last step it does here: in ``after_step`` nobody knew yet that this was the last one.
        """

    def on_interrupt(self, trainer: "Trainer") -> None:
        """When the process is asked to leave (SIGTERM, Ctrl-C) and the run is to be gone on with: save, and be quick.

        Hooks' ``after_step`` of the last step may be undone; a resume does them.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what ``state_dict`` gave."""


HOOKS: Registry[Hook] = Registry("hook", Hook)


class Parallelism:
    """How the processes of a run train one model together."""

    def __init__(self) -> None:
        super().__init__()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as this process trains it; ``model`` itself where there is nothing to share.

        For before the optimizer is built: its parameters may become others.

        Args:
            model: on its device, with its weights; the same in all processes, which all must call.
        """
        raise NotImplementedError


PARALLELISMS: Registry[Parallelism] = Registry("parallelism", Parallelism)
"""Ways to train in several processes, for ``train.parallel``."""
