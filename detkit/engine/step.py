"""The training step: fetch the batches, go forward and backward with each, clip the gradients, update the weights."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from detkit.engine.clipping import Clipping
from detkit.engine.loss_mean import IMAGES, LossMean, Normalisers, StepMean, normalisers_of, summed
from detkit.engine.model_errors import check_gradients, explained
from detkit.layers.norm import keep_running_statistics
from detkit.registry import ConfigError
from detkit.structures import Losses, Sample
from detkit.utils import distributed, rng_state, set_rng_state
from detkit.utils.sharding import full_tensors, gradient_sync

Batch = list[Sample]
Precision = Literal["fp32", "bf16", "fp16"]
"""fp32: everything; bf16, fp16: convolutions and matrix products, weights and losses staying in float32."""

_TYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NonFinite(FloatingPointError):
    """A loss or a gradient of a step is NaN or infinite, on this process or on another one.

    Attributes:
        values: of the loss on this process: its terms and metrics; {}: its gradients; None: another process has it.
        batch: the number of the batch in the step; None where that is not known.
    """

    def __init__(self, values: dict[str, float] | None, batch: int | None = None):
        super().__init__("the loss or its gradients are not finite")
        self.values, self.batch = values, batch


class TrainingStep:
    """One change of the weights.

    With the loss mean ``step`` the normalisers of all batches must be known before the first backward pass. The first
    batch's come from its own forward pass; for each of the others, where the model gives normalisers, there is a
    forward pass without gradients before, with the same random numbers, that leaves running statistics alone.

    The arguments are those of ``Trainer``.

    Attributes:
        checks_at_once: whether losses and gradients are checked before they are used (the CPU, where it costs nothing).
        begun: the batches of the step that have gone forward, each with the random state before.
        batch: the last one that was sent through the model.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        accumulate: int = 1,
        loss_mean: LossMean = "step",
        precision: Precision = "fp32",
        clipping: Clipping | None = None,
    ):
        self.model, self.optimizer, self.device = model, optimizer, device
        self.accumulate, self.loss_mean, self.precision = accumulate, loss_mean, precision
        self.clipping = clipping or Clipping()
        # It keeps fp16's gradients from underflow: scales losses up, gradients down, skips steps that overflow.
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.checks_at_once = device.type == "cpu"
        self.begun: list[tuple[Batch, dict[str, Any]]] = []
        self.batch: Batch = []
        self._mean = StepMean()

    def fetch(self, stream: Iterator[Batch], done: str) -> list[Batch]:
        """The batches of the next step. Raises ConfigError where the stream ends; it names what is ``done``."""
        batches = list(itertools.islice(stream, self.accumulate))
        if len(batches) < self.accumulate:
            raise ConfigError(f"data.sampler: its batches ended after {done}; a sampler never ends, it begins again")
        return batches

    def __call__(self, batches: Sequence[Batch]) -> tuple[Losses, dict[str, Tensor]]:
        """Changes the weights once.

        Returns:
            The step's losses, detached (the sum of the terms is what was minimised), and metrics of the update.

        Raises:
            NonFinite: where ``checks_at_once``; the weights are then as they were.
            ValueError: the model gave no loss.
            ConfigError: parameters without gradients, or a norm without values; see ``model_errors``.
        """
        self.begun = []
        self.optimizer.zero_grad(set_to_none=True)
        done, factors = [], None
        for number, batch in enumerate(batches):
            with gradient_sync(self.model, number + 1 == len(batches)):
                self.begun.append((batch, rng_state()))
                losses = self.losses(batch)
                self._check_loss(losses, number)
                factors = factors or self._factors(losses, batches)
                if factors[number] != 1.0:
                    losses = losses.rescaled(factors[number], default=IMAGES)
                self.scaler.scale(losses.total()).backward()
            if number + 1 == len(batches):
                check_gradients(self.model)
            done.append(summed([losses]))
            del losses  # and with it the graph, before the next batch makes its own
        return summed(done), self._update()

    def losses(self, batch: Batch, model: nn.Module | None = None) -> Losses:
        """The losses of a batch on the CPU, as a step computes them, by ``model`` (None: by its own)."""
        self.batch = batch
        return batch_losses(self.model if model is None else model, batch, self.device, self.precision)

    def _factors(self, first: Losses, batches: Sequence[Batch]) -> Sequence[dict[str, Tensor] | float]:
        """A factor for each term of each batch: the one place where ``loss_mean`` is read."""
        if self.loss_mean == "batch" or (len(batches) == 1 and distributed.world_size() == 1):
            return [1.0 / len(batches)] * len(batches)
        own = normalisers_of(first, len(batches[0]))
        if first.normalisers:
            return self._mean.factors([own, *self._normalisers(batches[1:])])
        return self._mean.factors(
            [own, *({IMAGES: torch.full_like(own[IMAGES], max(len(batch), 1))} for batch in batches[1:])]
        )

    def _normalisers(self, batches: Sequence[Batch]) -> list[Normalisers]:
        with self.aside() as model:
            return [normalisers_of(self.losses(batch, model), len(batch)) for batch in batches]

    @contextlib.contextmanager
    def aside(self) -> Iterator[nn.Module]:
        """A context for forward passes that leave no trace in the training: without gradients and exchange of buffers,
        with running statistics and random state as before. It gives the model to call."""
        model = self.model.module if isinstance(self.model, nn.parallel.DistributedDataParallel) else self.model
        state = rng_state()
        try:
            with torch.no_grad(), keep_running_statistics(model):
                yield model
        finally:
            set_rng_state(state)

    def _check_loss(self, losses: Losses, number: int) -> None:
        if not self.checks_at_once:
            return
        bad = not math.isfinite(losses.total().item())
        if distributed.any_process(bad):
            raise NonFinite(losses.values() if bad else None, number)

    def _update(self) -> dict[str, Tensor]:
        """Clips the gradients and changes the weights, unless the gradients overflowed in half precision.

        Returns:
            Where something asks for it: ``grad_norm``, the norm of all gradients before clipping; ``clipped``, see
            ``Clipping``; ``skipped``: 1 where the step was left out because of an overflow.
        """
        scaled, metrics = self.scaler.is_enabled(), dict[str, Tensor]()
        if scaled:
            self.scaler.unscale_(self.optimizer)
        if scaled or self.clipping.limits or self.checks_at_once:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            if scaled:
                metrics["skipped"] = (~torch.isfinite(norm)).float()
            elif self.checks_at_once and not math.isfinite(full_tensors(norm).item()):  # the same on all processes
                raise NonFinite({})
            if scaled or self.clipping.limits:
                metrics |= {"grad_norm": norm, **self.clipping(parameters, norm)}
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {name: full_tensors(value) for name, value in metrics.items()}


def batch_losses(model: nn.Module, batch: Batch, device: torch.device, precision: Precision) -> Losses:
    """The losses of a batch on the CPU by a model in training mode. Raises ValueError where it gives none."""
    with autocast(device, precision), explained(model):
        losses: Losses = model([sample.to(device, non_blocking=True) for sample in batch])
    if not losses.terms:
        raise ValueError("the model gave no loss term; is it in training mode?")
    return losses


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[None]:
    """A context in which the device computes in this precision.

    Enter a new one for each forward pass: torch keeps weights that were cast in it, with or without their gradients.

    Raises:
        ValueError: an unknown precision.
    """
    if precision == "fp32":
        return contextlib.nullcontext()
    if precision not in _TYPES:
        raise ValueError(f"precision: expected fp32, {' or '.join(_TYPES)}, got {precision!r}")
    return torch.autocast(device.type, _TYPES[precision])  # type: ignore[return-value]
