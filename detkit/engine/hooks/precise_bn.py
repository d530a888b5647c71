"""Running statistics of batch norms that are those of many images, not of the last few steps."""

import contextlib
import functools
import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.config import Count
from detkit.engine.hooks.periodic import PeriodicHook
from detkit.engine.interfaces import HOOKS, Training
from detkit.structures import Sample
from detkit.utils import distributed

logger = logging.getLogger(__name__)


@HOOKS.register()
class PreciseBN(PeriodicHook):
    """Before each evaluation, and at the end, gives batch norms the mean and variance of many batches (Wu and Johnson
    2021, arXiv:2105.07576).

    While a model trains, its norms keep running averages of statistics that belonged to other weights. Here the weights
    stand still: the model looks at ``num_batches`` training batches, those that come next, in training mode and without
    gradients, and each norm takes the mean and the variance over all values that came by, on all processes. Norms that
    are frozen are left alone. The weights' own training does not notice, and checkpoints of that step hold the new
    statistics.

    Args:
        num_batches: how many batches of ``data.batch_size`` images.

    Raises:
        ValueError: (in training) batches that cannot be gone through again.
    """

    def __init__(self, *, num_batches: Count = 100):
        super().__init__(with_evaluations=True)
        self.num_batches = num_batches

    def before_train(self, trainer: Training) -> None:
        if not trainer.can_rewind:
            raise ValueError("PreciseBN: the trainer's batches are a stream; give it a function that starts one")

    def run(self, trainer: Training) -> None:
        modules = trainer.model.modules()
        norms = [m for m in modules if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
        if not norms:
            logger.info("PreciseBN: the model has no batch norm that learns; nothing to do")
            return
        with trainer.training_step.aside() as model, _gathering(norms) as sums:
            batches: Iterable[list[Sample]] = trainer.batches_from(trainer.batches_seen)
            if trainer.interruption is not None:
                batches = trainer.interruption.watch(batches)
            for batch in itertools.islice(batches, self.num_batches):
                trainer.training_step.losses(batch, model)
        for norm, total in zip(norms, sums):
            _put(norm, total)


@contextlib.contextmanager
def _gathering(norms: list[_BatchNorm]) -> Iterator[list[Tensor]]:
    """Sums ``(3, C)`` a norm of everything that enters it meanwhile: how many values, their sum and that of squares."""
    sums = [_zeros(norm) for norm in norms]
    with contextlib.ExitStack() as hooks:
        for norm, total in zip(norms, sums):
            hooks.enter_context(norm.register_forward_pre_hook(functools.partial(_add, total)))
        yield sums


def _add(total: Tensor, norm: nn.Module, inputs: tuple[Any, ...]) -> None:
    x = inputs[0].detach().float()
    if not x.numel():
        return
    variance, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
    count, mean, variance = x.numel() // x.shape[1], mean.to(total), variance.to(total)
    total += torch.stack([torch.full_like(mean, count), count * mean, count * (variance + mean.square())])


def _put(norm: _BatchNorm, total: Tensor) -> None:
    if distributed.world_size() > 1:
        dist.all_reduce(total)
    count, mean, square = total
    if norm.running_mean is None or norm.running_var is None or not count[0] > 1:
        return  # nothing came by
    mean, square = mean / count, square / count
    norm.running_mean.copy_(mean)
    norm.running_var.copy_((square - mean.square()).clamp(min=0) * count / (count - 1))


def _zeros(norm: _BatchNorm) -> Tensor:
    assert norm.running_mean is not None
    dtype = torch.float32 if norm.running_mean.device.type == "mps" else torch.float64
    return norm.running_mean.new_zeros((3, norm.num_features), dtype=dtype)
