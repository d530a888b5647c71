"""What a step's losses are means over: each loss term of each batch gets a factor."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from detkit.structures import Losses
from detkit.utils import distributed

LossMean = Literal["step", "batch"]
"""step: over all images of the step, whatever batches and processes they are split into; batch: over each batch alone,
and then over the batches."""

Normalisers = dict[str, Tensor]
"""Name of a loss term -> the number of things that it is a mean over in a batch; ``IMAGES``: for all other terms."""

IMAGES = ""


def normalisers_of(losses: Losses, num_images: int) -> Normalisers:
    """The normalisers of one batch, its number of images among them. A batch of no image counts as one."""
    device = next(iter(losses.terms.values())).device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    images = torch.full((), max(num_images, 1), dtype=dtype, device=device)
    return {IMAGES: images, **{name: value.detach().to(dtype) for name, value in losses.normalisers.items()}}


class StepMean:
    """Factors that make the sum over a step's batches, averaged over processes, the mean over the whole step.

    A term is a sum over ``n`` things divided by ``max(n, 1)``. With ``N`` things in the step, over all batches and
    all of ``P`` processes, its factor is ``P * max(n, 1) / max(N, 1)``; averaging gradients over processes, as
    DistributedDataParallel does, takes the ``P`` out again. The factors stay on the device.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] | None = None

    def factors(self, batches: Sequence[Normalisers]) -> list[dict[str, Tensor]]:
        """Name -> factor for each batch. With several processes all must call it, once a step.

        Raises:
            ValueError: a term has a normaliser that no process gave in the first step.
        """
        names = self._agreed(sorted({name for normalisers in batches for name in normalisers}))
        zero = torch.zeros_like(batches[0][IMAGES])
        own = torch.stack([torch.stack([batch.get(name, zero) for name in names]) for batch in batches])
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
                f"the loss terms {', '.join(new)} have a normaliser, and had none on any process in the first step;"
                " with several processes a loss gives its normalisers in every step or never"
            )
        return self._names


def summed(batches: Sequence[Losses]) -> Losses:
    """The losses of a step, detached: sums of its batches' rescaled terms, and means of their metrics, NaN left out."""
    terms: dict[str, Tensor] = {}
    metrics: dict[str, list[Tensor]] = {}
    for losses in batches:
        for name, value in losses.terms.items():
            terms[name] = terms[name] + value.detach() if name in terms else value.detach()
        for name, value in losses.metrics.items():
            metrics.setdefault(name, []).append(value.detach())
    return Losses(terms, {name: torch.stack(values).float().nanmean() for name, values in metrics.items()})
