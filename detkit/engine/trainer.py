"""Trainer: the loop. It takes built objects and knows neither models nor data."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detkit.engine.forensics import Recorder
from detkit.engine.interfaces import Hook
from detkit.engine.loss_means import LossMean
from detkit.engine.metrics import Metrics
from detkit.engine.passes import Passes
from detkit.engine.precision import Precision, gradient_scaler
from detkit.engine.summary import describe_batch
from detkit.engine.update import Clipping, Update
from detkit.structures import Losses, Sample
from detkit.utils import distributed, rng_state, set_rng_state

logger = logging.getLogger(__name__)

Batches = Iterable[list[Sample]] | Callable[[int], Iterable[list[Sample]]]
"""An endless stream of batches, or a function from the number of the first batch to the stream that begins there."""


class Trainer:
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
        loss_mean: what the losses of a step are means over, the logged ones and those that are minimised: all of the
            step, over its batches and all processes, or each batch alone and then over the batches; see ``Passes``.
        precision: of the model's forward passes in training, and where hooks evaluate it; see ``autocast``.
        device: where samples are sent; None: where the model's first parameter is.
        output_dir: the run's folder, for the hooks that write.
        log_period: steps between lines of metrics.

    Attributes:
        step: number (0-based) of the step under way; between steps, of the last one.
        finished: how many steps are done. In ``before_step`` it equals ``step``, in ``after_step`` ``step + 1``.
        losses: the last step's ``Losses``.
        recorder: what ends the run at a loss that is not finite, and writes down what led to it.
        metrics: where lines of figures are published and subscribed to.
        scaler: of the losses in fp16; else it does nothing.
        results: what the last evaluation gave.

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
    ):
        if max_iter < 1:
            raise ValueError(f"max_iter: expected at least 1 step, got {max_iter}")
        if accumulate < 1:
            raise ValueError(f"accumulate: expected at least 1 batch a step, got {accumulate}")
        self.model, self.optimizer, self.schedule, self.max_iter = model, optimizer, schedule, max_iter
        self.hooks, self.accumulate, self.precision = list(hooks), accumulate, precision
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self.scaler = gradient_scaler(self.device, precision)
        self.passes = Passes(model, self.device, loss_mean, precision, self.scaler)
        self.update = Update(optimizer, Clipping(clip_grad_norm, clip_param_norm, clip_grad_value), self.scaler)
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.metrics = Metrics(log_period)
        self.recorder = Recorder(model, optimizer, self.passes.losses, self.device, self.output_dir)
        self.step, self.finished = 0, 0
        self.losses = Losses()
        self.results: dict[str, Any] = {}
        self._batches = batches
        self._described = False
        self._rng: dict[str, Any] | None = None  # of a resumed run, to be set when its first batch is there
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    @property
    def unwrapped_model(self) -> nn.Module:
        """The model without the wrappers of distributed training and compilation."""
        return distributed.unwrap(self.model)

    @property
    def is_last_step(self) -> bool:
        """In ``after_step``: whether no step follows."""
        return self.finished >= self.max_iter

    def train(self) -> None:
        """Trains until ``max_iter``. A finished run says so and does nothing.

        Hooks' ``after_train`` also run when training ends by an exception, which is then raised again.

        Raises:
            FloatingPointError: the loss or its gradients are NaN or infinite; names the step, the terms, the images and
                their annotations, and the folder where the batch and the state are (see ``Recorder``).
            OutOfMemory: names the batch and what to lower.
            ValueError: the batches end before ``max_iter``, or the model gave no loss.
        """
        if self.finished >= self.max_iter:
            logger.info("training is finished at step %d; raise solver.max_iter to go on", self.finished)
            return
        self.model.train()
        try:
            for hook in self.hooks:
                hook.before_train(self)
            stream = self._stream()
            while self.finished < self.max_iter:
                self._one_step(stream)
        except BaseException:
            self._after_train_quietly()
            raise
        for hook in self.hooks:
            hook.after_train(self)

    def check_finite(self) -> None:
        """Raises FloatingPointError if the loss of a step until now was not finite. Waits for the device."""
        self.recorder.judge(self.metrics.settle())

    def _stream(self) -> Iterator[list[Sample]]:
        seen = self.finished * self.accumulate
        if callable(self._batches):
            return iter(self._batches(seen))
        stream = iter(self._batches)
        for _ in range(seen):
            next(stream, None)
        return stream

    def _one_step(self, stream: Iterator[list[Sample]]) -> None:
        self.step = self.finished
        for hook in self.hooks:
            hook.before_step(self)
        start = time.perf_counter()
        data_time = self._run(stream)
        self.finished = self.step + 1
        log = self.finished % self.metrics.log_period == 0 or self.is_last_step
        if log or self.recorder.is_full:
            self.check_finite()  # within the measured time: on a GPU the work of the window ends here
        self.metrics.add_times(data_time, time.perf_counter() - start)
        if log:
            lr = self.optimizer.param_groups[0]["lr"]
            hooks_left = sum(hook.seconds_left(self) or 0.0 for hook in self.hooks)
            self.metrics.flush(lr, self.max_iter - self.finished, self.device, hooks_left)
        for hook in self.hooks:
            hook.after_step(self)

    def _run(self, stream: Iterator[list[Sample]]) -> float:
        """The passes of the step, then the update. Gives the seconds of waiting for data."""
        factor = self.schedule(self.step, self.max_iter)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.optimizer.zero_grad(set_to_none=True)
        start = time.perf_counter()
        batches = [self._next(stream) for _ in range(self.accumulate)]
        data_time = time.perf_counter() - start
        self.recorder.begin_step(self.step)
        self.losses = self.passes(batches, self.recorder)
        figures = {"total_loss": self.losses.total(), **self.losses.terms, **self.losses.metrics}
        figures |= self.update(self.recorder)
        self.metrics.add(self.step, figures)
        return data_time

    def _next(self, stream: Iterator[list[Sample]]) -> list[Sample]:
        batch = next(stream, None)
        if batch is None:
            raise ValueError(f"the batches ended after {self.step} steps; max_iter is {self.max_iter}")
        self._restore_rng()
        if not self._described and logger.isEnabledFor(logging.DEBUG):
            logger.debug("the first batch\n%s", describe_batch(batch))
        self._described = True
        return batch

    def _after_train_quietly(self) -> None:
        """All hooks get to clean up, and none hides the exception that ended training."""
        for hook in self.hooks:
            try:
                hook.after_train(self)
            except Exception:
                logger.exception("%s.after_train failed while training was ending by an exception", type(hook).__name__)

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs besides the weights: tensors and plain data only. All ranks must call it.

        Raises:
            FloatingPointError: the loss of a step until now was not finite.
        """
        self.check_finite()
        return {
            "finished": self.finished,
            "optimizer": self.optimizer.state_dict(),
            "hooks": {key: hook.state_dict() for key, hook in self._named_hooks()},
            "metrics": self.metrics.state_dict(),
            "rng": distributed.all_gather_object(rng_state()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what ``state_dict`` gave. Rates, decays and other options stay those of this trainer's optimizer.

        Raises:
            ValueError: the state is of an optimizer over other parameters.
        """
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise ValueError(
                f"the optimizer's state is of other parameters ({error}): what is frozen, the parameter groups or the"
                " model have changed since it was written"
            ) from error
        for group, option in zip(self.optimizer.param_groups, options):
            group.update(option)
        for key, hook in self._named_hooks():
            if key in state["hooks"]:
                hook.load_state_dict(state["hooks"][key])
        if "metrics" in state:  # checkpoints of older versions have none
            self.metrics.load_state_dict(state["metrics"])
        self.finished = int(state["finished"])
        self.step = max(self.finished - 1, 0)
        if distributed.rank() < len(state["rng"]):
            self._rng = state["rng"][distributed.rank()]
        else:
            logger.warning("the run had %d processes before: random numbers differ from here", len(state["rng"]))

    def _restore_rng(self) -> None:
        """Only when the first batch is there, because starting a loader draws from torch's global generator."""
        if self._rng is not None:
            set_rng_state(self._rng)
            self._rng = None

    def _named_hooks(self) -> Iterator[tuple[str, Hook]]:
        """Hooks under their class names, numbered where one occurs again."""
        seen: dict[str, int] = {}
        for hook in self.hooks:
            name = type(hook).__name__
            seen[name] = seen.get(name, 0) + 1
            yield (name if seen[name] == 1 else f"{name}#{seen[name]}"), hook
