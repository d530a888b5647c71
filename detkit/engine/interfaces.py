"""The roles of the engine: Hook and Parallelism, and a training as its hooks see it."""

import contextlib
import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from detkit.engine.interruption import Interrupted, Interruption
from detkit.engine.metrics import Line, Metrics, Pictures
from detkit.engine.step import TrainingStep
from detkit.registry import Registry
from detkit.structures import Losses, Sample
from detkit.utils import distributed

Batches = Iterable[list[Sample]] | Callable[..., Iterable[list[Sample]]]
"""An endless stream of batches, or a function from the number of the first batch to the stream that begins there. One
whose training is described by a ``TrainingData`` also takes ``earlier``, see ``Training``."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a training's batches are made of. Checkpoints hold it, and a resume compares it.

    Args:
        batch_size: images a batch, over all processes.
        num_images: length of the dataset.
        identity: differs where the images, their objects or the order in which they are seen are others.
        epochs: after how many passes over the dataset training ends; None: after ``max_iter`` steps.
    """

    batch_size: int
    num_images: int
    identity: str
    epochs: float | None = None


class Training:
    """A training as its hooks see it; ``Trainer`` runs it."""

    model: nn.Module  # on its device; may be wrapped for distributed training
    optimizer: torch.optim.Optimizer  # over its parameters
    batches: Batches
    max_iter: int  # number of the run's steps
    device: torch.device  # where samples are sent
    output_dir: Path | None  # the run's folder, for the hooks that write
    hooks: "Sequence[Hook]"  # in the order in which they are called
    training_step: TrainingStep  # how weights change; ``training_step.losses(batch)`` gives the losses of a batch
    test_batches: Iterable[list[Sample]] | None  # the test set with its targets, this process's share; read repeatedly
    interruption: Interruption | None  # whether and when to leave; None: the process does not listen to signals
    step: int  # number (0-based) of the step under way; between steps, of the last one
    finished: int  # how many steps are done: in ``before_step`` as many as ``step``, in ``after_step`` one more
    losses: Losses  # of the last step
    metrics: Metrics  # of the steps since the last line of metrics
    results: dict[str, Any]  # what the last evaluation gave
    batches_seen: int  # how many batches the finished steps have taken: where the stream goes on
    data: TrainingData | None  # None: nothing is known of it
    earlier: "list[tuple[int, int]]"  # (number of batches, images a batch) of resumed runs with another batch size
    pending: list[str]  # names of the hooks whose ``after_step`` of the last finished step is still to come
    switched_off: "list[Hook]"  # of which an error was caught, see ``guard``
    weight_sets: dict[str, Callable[[], contextlib.AbstractContextManager[None]]]
    """Further sets of weights that the run keeps beside the raw ones (averages, say), by name: functions that give a
    context inside which the model has them. They are evaluated and saved beside the raw ones."""

    @property
    def unwrapped_model(self) -> nn.Module:
        """The model without the wrappers of distributed training and compilation."""
        return distributed.unwrap(self.model)

    @property
    def stop_reason(self) -> str | None:
        """Why a hook ended training before ``max_iter``; None where none did."""
        reasons = (hook.stop_reason() for hook in self.hooks if not hook.optional)
        return next((reason for reason in reasons if reason is not None), None)

    @property
    def is_last_step(self) -> bool:
        """In ``after_step``: whether no step follows, because of ``max_iter`` or of a ``stop_reason``."""
        return self.finished >= self.max_iter or self.stop_reason is not None

    @property
    def evaluates(self) -> bool:
        """In ``after_step``: whether some hook evaluates the weights after this step."""
        return any(hook.evaluates(self) for hook in self.hooks if not hook.optional)

    def hooks_left(self) -> tuple[float, bool]:
        """How many seconds hooks will still take as far as they know, and whether one of them does not know."""
        seconds = [hook.seconds_left(self) for hook in self.hooks if not hook.optional]
        return sum(value or 0.0 for value in seconds), None in seconds

    @property
    def can_rewind(self) -> bool:
        """Whether ``batches_from`` gives a stream that takes nothing from the training's own."""
        return not isinstance(self.batches, Iterator)

    def batches_from(self, number: int) -> Iterator[list[Sample]]:
        """The training batches from ``number`` on, in a stream of their own where the training ``can_rewind``."""
        if callable(self.batches):
            return iter(self.batches(number, earlier=self.earlier) if self.earlier else self.batches(number))
        return itertools.islice(self.batches, number, None)

    def interruptible(self, patience: float = 0.0) -> contextlib.AbstractContextManager[None]:
        """Within it a signal ends the training wherever it stands, see ``Interruption.at_once``."""
        return contextlib.nullcontext() if self.interruption is None else self.interruption.at_once(patience)

    @contextlib.contextmanager
    def guard(self, hook: "Hook", optional: bool | None = None) -> Iterator[None]:
        """Within it an error of a hook that is ``optional`` (None: as it says itself) is logged and switches it off."""
        try:
            yield
        except (Interrupted, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # what libraries raise while they are imported: SystemExit, a panic of Rust
            if not (hook.optional if optional is None else optional):
                raise
            if hook not in self.switched_off:
                self.switched_off.append(hook)
                logger.warning("training goes on without %s, which failed: %s", type(hook).__name__, error)
                logger.debug("where %s failed", type(hook).__name__, exc_info=True)

    def publish(self, line: Line) -> None:
        """Gives a line of metrics to all hooks. All ranks do that, with the same line: hooks decide by it."""
        for hook in self.hooks:
            if not (hook.optional and hook in self.switched_off):
                with self.guard(hook):
                    hook.on_metrics(self, line)

    def publish_pictures(self, pictures: Pictures) -> None:
        """Gives pictures to all hooks; no error of theirs ends the training."""
        for hook in self.hooks:
            if hook not in self.switched_off:
                with self.guard(hook, optional=True):
                    hook.on_pictures(self, pictures)

    def check_finite(self) -> None:
        """Raises FloatingPointError if the loss of a step until now was not finite. Synchronises the device."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs besides the weights. All ranks must call it."""
        raise NotImplementedError


class Hook:
    """Something that happens around training steps. The trainer calls its hooks in the order of its list.

    A hook has no runtime arguments; what it needs is in the ``Training`` that it is called with. Hooks of a config come
    before the run's own that write checkpoints and evaluate.

    Attributes:
        optional: whether it only shows something. Any error in it is logged once, and the training goes on without it;
            ``after_train`` is still called, to let go of what it holds. An optional hook must not exchange anything
            with other processes, change the training or end it.
    """

    optional: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()

    def before_train(self, trainer: Training) -> None:
        """Before the first step of this process (also after a resume)."""

    def before_step(self, trainer: Training) -> None:
        """Before the step numbered ``trainer.step``."""

    def after_step(self, trainer: Training) -> None:
        """After it. ``trainer.losses`` holds the step's Losses."""

    def after_train(self, trainer: Training) -> None:
        """After the last step, also when training ends by an exception, one of another hook's ``after_train`` too."""

    def on_metrics(self, trainer: Training, line: Line) -> None:
        """A line of metrics: of the steps since the last such line, or of an evaluation. On all ranks."""

    def on_pictures(self, trainer: Training, pictures: Pictures) -> None:
        """Pictures of predictions after the last finished step, on the rank that has drawn them."""

    def seconds_left(self, trainer: Training) -> float | None:
        """How long this hook will still take until the end of training, where it is long enough to count.

        Returns:
            Seconds; None where the hook has something long to do and does not know yet how long it takes.
        """
        return 0.0

    def evaluates(self, trainer: Training) -> bool:
        """In ``after_step``, of any hook: whether this hook is going to evaluate the weights after this step."""
        return False

    def stop_reason(self) -> str | None:
        """Why training is to end for good after this step, before ``max_iter``; None where it is not.

        The trainer asks after every step. The answer must be the same on all ranks, and in words that say how to go on
        nevertheless.
        """
        return None

    def after_stop(self, trainer: Training) -> None:
        """After the last step of a training that a hook's ``stop_reason`` ended, once every ``after_step`` is done.

        What a hook does at the last step it does here: ``after_step`` came before it was known to be the last one.
        """

    def on_interrupt(self, trainer: Training) -> None:
        """When the process is asked to leave (SIGTERM, Ctrl-C) and the run is to be gone on with: save, and be quick.

        Hooks' ``after_step`` of the last step may be undone; a resume does them.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs: tensors, numbers and texts, in dicts and lists."""
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
