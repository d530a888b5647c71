"""What a step's losses are means over: each loss term of each batch gets a factor."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from detkit.structures import Losses
from detkit.utils import distributed

LossMean = Literal["step", "batch"]
"""step: over all images of the step, whatever batches and processes they are split into; batch: over each batch alone,
and then over the batches."""

Counts = dict[str, Tensor]
"""Name of a loss term -> how many things it is a mean over in a batch; ``IMAGES``: for all terms without a count."""

IMAGES = ""


def counts_of(losses: Losses, num_images: int) -> Counts:
    """The counts of one batch, its images among them. A batch of none counts as one."""
    device = next(iter(losses.terms.values())).device
    images = torch.full((), max(num_images, 1), dtype=_precise(device), device=device)
    return {IMAGES: images, **{name: count.detach().to(images.dtype) for name, count in losses.normalisers.items()}}


class StepMean:
    """Factors that make the sum over a step's batches, averaged over processes, the mean over the whole step.

    A term is a sum over ``n`` things divided by ``max(n, 1)``. With ``N`` things in the step, over all batches and
    all of ``P`` processes, its factor is ``P * max(n, 1) / max(N, 1)``; whoever averages gradients over processes,
    as DistributedDataParallel does, takes the ``P`` out again. The factors stay on the device.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] | None = None

    def factors(self, every: Sequence[Counts]) -> list[dict[str, Tensor]]:
        """Name -> factor for each batch. With several processes all must call it, once a step.

        Raises:
            ValueError: a term has a count that no process gave in the first step.
        """
        names = self._agreed(sorted({name for counts in every for name in counts}))
        zero = torch.zeros_like(every[0][IMAGES])
        own = torch.stack([torch.stack([counts.get(name, zero) for name in names]) for counts in every])
        total, processes = own.sum(dim=0), distributed.world_size()
        if processes > 1:
            dist.all_reduce(total)
        factors = own.clamp(min=1) * processes / total.clamp(min=1)
        return [dict(zip(names, row.unbind())) for row in factors]

    def _agreed(self, names: Sequence[str]) -> Sequence[str]:
        """The names in the order of all processes; they are asked in the first step alone."""
        if distributed.world_size() == 1:
            return names
        if self._names is None:
            self._names = tuple(sorted(set().union(*distributed.all_gather_object(names))))
        new = sorted(set(names) - set(self._names))
        if new:
            raise ValueError(
                f"the loss terms {', '.join(new)} have a count, and had none on any process in the first step; with"
                " several processes a loss gives its counts in every step or never"
            )
        return self._names


def weighed(losses: Losses, factors: Mapping[str, Tensor] | float) -> Losses:
    """``losses`` with each term times its factor; a term without one of its own takes that of the images."""
    if isinstance(factors, float):
        return Losses({n: v * factors for n, v in losses.terms.items()}, losses.metrics, losses.normalisers)
    terms = {n: v * factors.get(n, factors[IMAGES]).to(v.dtype) for n, v in losses.terms.items()}
    return Losses(terms, losses.metrics, losses.normalisers)


def summed(every: Sequence[Losses]) -> Losses:
    """The losses of a step, detached: sums of its batches' weighed terms, and means of the metrics that they give."""
    terms: dict[str, Tensor] = {}
    metrics: dict[str, list[Tensor]] = {}
    for losses in every:
        for name, value in losses.terms.items():
            terms[name] = terms[name] + value.detach() if name in terms else value.detach()
        for name, value in losses.metrics.items():
            metrics.setdefault(name, []).append(value.detach())
    return Losses(terms, {name: torch.stack(values).float().mean() for name, values in metrics.items()})


def _precise(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
