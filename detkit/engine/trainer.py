"""Trainer: the loop. It takes built objects and knows neither models nor data."""

import contextlib
import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from detkit.engine.clipping import Clipping
from detkit.engine.failures.recorder import FailureRecorder
from detkit.engine.interfaces import Batches, Hook, Training, TrainingData
from detkit.engine.interruption import Interrupted, Interruption
from detkit.engine.loss_mean import LossMean
from detkit.engine.metrics import Metrics
from detkit.engine.step import Precision, TrainingStep
from detkit.engine.summary import describe_batch
from detkit.engine.training_state import named_hooks, restore, training_state
from detkit.structures import FailedBatch, Losses, Sample
from detkit.utils import distributed, rng_state, set_rng_state

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Trainer(Training):
    """Runs training steps from the last finished one up to ``max_iter``.

    Args:
        model: gives ``Losses`` for a batch in training mode; on its device; may be wrapped for distributed training.
        optimizer: over the model's parameters; each group's ``initial_lr`` (or else its ``lr``) is the base rate.
        schedule: ``(step, max_iter)`` -> factor on the base rates, asked before every step.
        batches: see ``Batches``; a step takes ``accumulate`` of them. After a resume, a plain iterable is gone through
            up to the batch to go on with; a function begins there at once.
        max_iter: number of the run's steps.
        hooks: called in this order.
        clip_grad_norm, clip_param_norm, clip_grad_value: limits of the gradients, one at most; see ``Clipping``.
        accumulate: batches a step: their gradients are averaged, and clipped and applied once. Batch norms take their
            statistics of each batch alone.
        loss_mean: what the losses of a step are means over, see ``LossMean``.
        precision: of the model's forward passes in training, and where hooks evaluate it; see ``autocast``.
        device: where samples are sent; None: where the model's first parameter is.
        output_dir: the run's folder, for the hooks that write.
        log_period: steps between lines of metrics.
        test_batches: see ``Training``.
        interruption: whether and when the process is asked to leave; None: signals do what they do by themselves.
        data: what the batches are made of, for a resume to compare.

    Attributes (besides those of ``Training``):
        failures: what ends the run at a loss that is not finite, and writes down what led to it.

    Raises:
        ValueError: ``max_iter``, ``accumulate`` or a limit of gradients is not positive, or there are several limits.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int, int], float],
        batches: Batches,
        max_iter: int,
        *,
        hooks: Sequence[Hook] = (),
        clip_grad_norm: float | None = None,
        clip_param_norm: float | None = None,
        clip_grad_value: float | None = None,
        accumulate: int = 1,
        loss_mean: LossMean = "step",
        precision: Precision = "fp32",
        device: torch.device | str | None = None,
        output_dir: str | Path | None = None,
        log_period: int = 20,
        test_batches: Iterable[list[Sample]] | None = None,
        interruption: Interruption | None = None,
        data: TrainingData | None = None,
    ):
        if max_iter < 1:
            raise ValueError(f"max_iter: expected at least 1 step, got {max_iter}")
        if accumulate < 1:
            raise ValueError(f"accumulate: expected at least 1 batch a step, got {accumulate}")
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.batches, self.max_iter, self.hooks = batches, max_iter, list(hooks)
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self.training_step = TrainingStep(
            model,
            optimizer,
            device=self.device,
            accumulate=accumulate,
            loss_mean=loss_mean,
            precision=precision,
            clipping=Clipping(clip_grad_norm, clip_param_norm, clip_grad_value),
        )
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.metrics = Metrics(log_period)
        self.failures = FailureRecorder(self.training_step, self.output_dir)
        self.step, self.finished, self.batches_seen = 0, 0, 0
        self.data, self.earlier = data, []
        self.losses, self.results, self.weight_sets = Losses(), {}, {}
        self.interruption, self.test_batches = interruption, test_batches
        self.pending, self.switched_off = [], []
        self._rng: dict[str, Any] | None = None  # of a resumed run, to be set when its first batch is there
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def train(self) -> None:
        """Trains until ``max_iter``, or until a hook's ``stop_reason``. A finished run says so and does nothing.

        After a resume, hooks that the checkpoint came before are first called for the step that it came after.
        Every hook's ``after_train`` is called at the end. The exception that training ends by, or else the first one
        of an ``after_train``, is raised after that.

        Raises:
            FloatingPointError: the loss or its gradients are NaN or infinite; see ``FailureRecorder``.
            OutOfMemory: names the batch and what to lower.
            ValueError: the batches end before ``max_iter``, or the model gave no loss.
            Interrupted: ``interruption`` had a signal; the hooks have saved what a resume needs.
        """
        if self.finished >= self.max_iter and not self.pending:
            logger.info("training is finished: %d of %d steps are done", self.finished, self.max_iter)
            return
        self.model.train()
        try:
            with self.interruption or contextlib.nullcontext():
                self._call_all("before_train")
                self._catch_up()
                stream = iter(()) if self.is_last_step else self._wait(self._stream)
                while not self.is_last_step:
                    self._one_step(stream)
        except BaseException:
            self._end(failing=True)
            raise
        self._end()

    def _end(self, *, failing: bool = False) -> None:
        """Calls every hook's ``after_train``. The first error is raised after that, unless training is ``failing``."""
        first: Exception | None = None
        for hook in self.hooks:
            try:
                self._call(hook, "after_train")
            except Exception as error:
                if failing or first is not None:
                    name = type(hook).__name__
                    logger.exception("%s.after_train failed while training was ending by an exception", name)
                first = first or error
        if first is not None and not failing:
            raise first

    def _one_step(self, stream: Iterator[list[Sample]]) -> None:
        self.step = self.finished
        self._call_all("before_step")
        start = time.perf_counter()
        factor = self.schedule(self.step, self.max_iter)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        words = f"{self.step} steps; max_iter is {self.max_iter}"
        batches = self._wait(functools.partial(self.training_step.fetch, stream, words))
        errors = [batch.error for batch in batches if isinstance(batch, FailedBatch)]
        if errors:
            if self.interruption is None:
                raise errors[0]
            logger.warning("%s. Another image stands for it until all processes have saved and stop", errors[0])
            self.interruption.fail(errors[0])
        data_time = time.perf_counter() - start
        with self.failures.watch(self.step):
            self.losses, metrics = self.training_step(batches)
        metrics = {**self.losses.terms, **self.losses.metrics, **metrics}
        self.metrics.add(self.step, {"total_loss": self.losses.total(), **metrics})
        self.finished = self.step + 1
        self.batches_seen += len(batches)
        log = self.finished % self.metrics.log_period == 0 or self.is_last_step
        if log or self.failures.is_full:
            self.check_finite()  # within the measured time: on a GPU the work of the window ends here
        self.metrics.add_times(data_time, time.perf_counter() - start)
        if log:
            self._flush()
        self.pending = [key for key, _ in named_hooks(self.hooks)]
        self._finish_step()

    def _finish_step(self) -> None:
        """Calls the hooks that are pending, or lets them save and leaves where the process is asked to."""
        hooks = dict(named_hooks(self.hooks))
        try:
            if self.interruption is not None:
                self.interruption.check()
            while self.pending:
                key = self.pending.pop(0)  # before the call: to a checkpoint its own hook is done
                try:
                    self._call(hooks[key], "after_step")
                except (Interrupted, Exception) as error:
                    self.pending.insert(0, key)
                    if not isinstance(error, Interrupted):
                        self._save_before(error)
                    raise
            if self.finished < self.max_iter and self.is_last_step:
                logger.info("training stops early (%d of %d steps): %s", self.finished, self.max_iter, self.stop_reason)
                if not self.metrics.is_empty:
                    self._flush()
                self._call_all("after_stop")
        except Interrupted as stop:
            self._leave(stop)
            raise

    def _wait(self, get: Callable[[], T]) -> T:
        """What ``get`` waits for. After a signal or an error meanwhile the last finished step is saved."""
        try:
            with self.interruptible(patience=5.0):
                return get()
        except (Interrupted, Exception) as error:
            self.step = max(self.finished - 1, 0)
            if self._rng is not None:
                set_rng_state(self._rng)
            if isinstance(error, Interrupted):
                self._leave(error)
            else:
                self._save_before(error)
            raise

    def _save_before(self, error: Exception) -> None:
        """Saves what is done before ``error`` ends a run of one process; of several the others would not take part.

        After a loss that is not finite what is done is worth nothing."""
        if not self.finished or distributed.world_size() > 1 or isinstance(error, FloatingPointError):
            return
        try:
            self._call_all("on_interrupt")
            logger.warning("%d steps are done and saved; an error ends the training, --resume goes on", self.finished)
        except Exception as second:
            logger.warning("%d steps are done, and could not be saved: %s", self.finished, second)

    def _leave(self, stop: Interrupted) -> None:
        logger.info("%d steps are done: %s", self.finished, stop)
        if self.finished:
            self._call_all("on_interrupt")
        if self.interruption is not None and self.interruption.error is not None:
            raise self.interruption.error from None

    def _call_all(self, method: str) -> None:
        for hook in self.hooks:
            self._call(hook, method)

    def _call(self, hook: Hook, method: str) -> None:
        """Calls a hook; an optional one that has failed can only let go of what it holds."""
        if not hook.optional or method == "after_train" or hook not in self.switched_off:
            with self.guard(hook):
                getattr(hook, method)(self)

    def _flush(self) -> None:
        lr = self.optimizer.param_groups[0]["lr"]
        self.publish(self.metrics.flush(lr, self.max_iter - self.finished, self.device, self.hooks_left()[0]))

    def _catch_up(self) -> None:
        """What the last finished step of a resumed run has still to do."""
        if self._rng is not None:
            set_rng_state(self._rng)
        if self.finished:
            self._finish_step()
        if self._rng is not None:
            self._rng = rng_state()

    def _stream(self) -> Iterator[list[Sample]]:
        """The batches from the next one on. A resumed run's random state is set when the first one is there, because
        starting a loader draws from torch's global generator."""
        stream = _described(self.batches_from(self.batches_seen))
        if self._rng is None:
            return stream
        first = list(itertools.islice(stream, 1))
        set_rng_state(self._rng)
        self._rng = None
        return itertools.chain(first, stream)

    def check_finite(self) -> None:
        self.failures.check_window(self.metrics.settle())

    def state_dict(self) -> dict[str, Any]:
        """See ``Training``. Raises FloatingPointError where the loss of a step until now was not finite."""
        self.check_finite()
        return training_state(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what ``state_dict`` gave; see ``restore``."""
        self._rng = restore(self, state)


def _described(stream: Iterator[list[Sample]]) -> Iterator[list[Sample]]:
    """The stream; its first batch is described in the debug log."""
    for number, batch in enumerate(stream):
        if number == 0 and logger.isEnabledFor(logging.DEBUG):
            logger.debug("the first batch\n%s", describe_batch(batch))
        yield batch
