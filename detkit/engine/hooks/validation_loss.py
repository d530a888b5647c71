"""The losses of the test set."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from detkit.config import Count
from detkit.engine.hooks.periodic import PeriodicHook
from detkit.engine.interfaces import HOOKS, Training
from detkit.engine.loss_mean import IMAGES, normalisers_of
from detkit.engine.metrics import mean_over_ranks
from detkit.structures import Sample
from detkit.utils import distributed


@HOOKS.register()
class ValidationLoss(PeriodicHook):
    """Computes the losses of the test set: where they rise while those of training fall, a model learns by heart.

    They are ``validation/total_loss``, ``validation/loss_cls`` and so on in the lines of metrics: means over the whole
    test set, over all processes, by the terms' normalisers; a term that counts nothing in it is NaN. The model computes
    them in training mode, dropout and sampling included, with random numbers that are the same each time; it does not
    learn, and neither running statistics nor the random numbers of training change.

    Args:
        period: steps between them, and once at the end; null: whenever the weights are evaluated.

    Raises:
        ValueError: (in training) the trainer has no ``test_batches``, or they give nothing.
    """

    def __init__(self, *, period: Count | None = None):
        super().__init__(period, with_evaluations=True)

    def before_train(self, trainer: Training) -> None:
        if trainer.test_batches is None:
            raise ValueError("ValidationLoss: the trainer has no test_batches; pass them where the trainer is built")

    def run(self, trainer: Training) -> None:
        sums: dict[str, Tensor] = {}
        numbers: dict[str, Tensor] = {}
        with trainer.training_step.aside() as model:
            torch.manual_seed(0)
            for batch, is_own in _in_lockstep(trainer.test_batches or ()):
                losses = trainer.training_step.losses(batch, model)
                normalisers = normalisers_of(losses, len(batch))
                for name, term in losses.terms.items() if is_own else ():
                    number = normalisers.get(name, normalisers[IMAGES])
                    sums[name] = sums.get(name, 0) + term.to(number.dtype) * number.clamp(min=1)
                    numbers[name] = numbers.get(name, 0) + number
        means = mean_over_ranks({name: (float(value), float(numbers[name])) for name, value in sums.items()})
        if not means:
            raise ValueError("ValidationLoss: the test set gave no batch")
        means = {"total_loss": sum(mean for mean in means.values() if not math.isnan(mean)), **means}
        trainer.publish({"iteration": trainer.step, **{f"validation/{name}": value for name, value in means.items()}})


def _in_lockstep(batches: Iterable[list[Sample]]) -> Iterator[tuple[list[Sample], bool]]:
    """The batches, as many on each process: one that has fewer sees its last one again, and one that has none another
    process's first, which then do not count.

    Parts of a model may wait for all processes in every forward pass.
    """
    stream, last = iter(batches), None
    while True:
        batch = next(stream, None)
        last = last if batch is None else batch
        states = distributed.all_gather_object((batch is not None, last is not None))
        if not any(has_batch for has_batch, _ in states):
            return
        if not all(has_some for _, has_some in states):
            giver = [has_batch for has_batch, _ in states].index(True)
            given = distributed.all_gather_object(batch if distributed.rank() == giver else None)[giver]
            last = given if last is None else last
        assert last is not None
        yield last, batch is not None
