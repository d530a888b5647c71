"""The passes of a training step: forward and backward for each of its batches."""

from collections.abc import Sequence

import torch
from torch import nn

from detkit.engine.forensics.recorder import Recorder
from detkit.engine.loss_means import IMAGES, Counts, LossMean, StepMean, counts_of, summed, weighed
from detkit.engine.precision import Precision, autocast
from detkit.layers.norm import keep_running_statistics
from detkit.structures import Losses, Sample
from detkit.utils import distributed, rng_state, set_rng_state
from detkit.utils.sharding import averaging_gradients

Batch = list[Sample]


class Passes:
    """Adds up the gradients of a step's batches.

    With ``loss_mean`` step the counts of all batches must be known before the first backward pass. The first batch's
    come from its own forward pass; for each of the others, where the model gives counts, there is a forward pass
    without gradients before, with the same random numbers, that leaves running statistics alone.

    Args:
        model: may be wrapped for distributed training.
        device: where samples are sent.
        loss_mean: see ``LossMean``.
        precision: of the forward passes.
        scaler: of the losses, before the backward passes.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        loss_mean: LossMean,
        precision: Precision,
        scaler: torch.amp.GradScaler,
    ):
        self.model, self.device, self.loss_mean, self.precision = model, device, loss_mean, precision
        self.scaler = scaler
        self._mean = StepMean()

    def __call__(self, batches: Sequence[Batch], recorder: Recorder) -> Losses:
        """Gives the step's losses, detached: the terms' sum is what was minimised.

        Args:
            batches: all of the step, on this process.
            recorder: of the run; it looks at every loss.

        Raises:
            FloatingPointError: a loss on the CPU is NaN or infinite.
            ValueError: the model gave no loss.
        """
        done: list[Losses] = []
        factors: Sequence[dict[str, torch.Tensor] | float] = [1.0]
        for number, batch in enumerate(batches):
            talks = number + 1 == len(batches)
            with recorder.naming(batch), averaging_gradients(self.model, talks):
                recorder.begin_batch(batch)
                losses = self.losses(self.model, batch)
                recorder.check_loss(losses)
            if number == 0:
                factors = self._factors(losses, batches, recorder)
            with recorder.naming(batch), averaging_gradients(self.model, talks):
                if factors[number] != 1.0:
                    losses = weighed(losses, factors[number])
                self.scaler.scale(losses.total()).backward()
            done.append(summed([losses]))
            del losses  # and with it the graph, before the next batch makes its own
        return summed(done)

    def _factors(
        self, first: Losses, batches: Sequence[Batch], recorder: Recorder
    ) -> Sequence[dict[str, torch.Tensor] | float]:
        """The one place where ``loss_mean`` is read."""
        if self.loss_mean == "batch" or (len(batches) == 1 and distributed.world_size() == 1):
            return [1.0 / len(batches)] * len(batches)
        own = counts_of(first, len(batches[0]))
        every = [own, *(self._counted(batches[1:], recorder) if first.normalisers else _images_alone(own, batches[1:]))]
        return self._mean.factors(every)

    @torch.no_grad()
    def _counted(self, batches: Sequence[Batch], recorder: Recorder) -> list[Counts]:
        model, state, every = without_ddp(self.model), rng_state(), []
        try:
            with keep_running_statistics(model):
                for batch in batches:
                    with recorder.naming(batch):
                        every.append(counts_of(self.losses(model, batch), len(batch)))
        finally:
            set_rng_state(state)
        return every

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """The losses of a batch on the host as a step computes them, by its model or by that without its wrappers."""
        with autocast(self.device, self.precision):
            losses: Losses = model([sample.to(self.device, non_blocking=True) for sample in batch])
        if not losses.terms:
            raise ValueError("the model gave no loss term; is it in training mode?")
        return losses


def _images_alone(own: Counts, batches: Sequence[Batch]) -> list[Counts]:
    return [{IMAGES: torch.full_like(own[IMAGES], max(len(batch), 1))} for batch in batches]


def without_ddp(model: nn.Module) -> nn.Module:
    """The model that takes part in no exchange of buffers; what compiles it stays."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
