"""Moving averages of the weights, kept beside them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from detkit.config import Count, Fraction
from detkit.engine.interfaces import HOOKS, Hook, Training
from detkit.utils.sharding import distribute

NAME = "ema"


@HOOKS.register()
class ExponentialMovingAverage(Hook):
    """Keeps an exponential moving average of the weights (Polyak and Juditsky 1992), which often detects better.

    After every ``period`` steps ``average = d * average + (1 - d) * weights``, beginning with the weights that training
    begins with. ``d`` is ``decay``; with ``warm_up`` it is ``min(decay, (1 + n) / (10 + n))`` at update ``n`` (from 1
    on), so that the first, random weights are soon forgotten. What the optimizer changes is averaged, in float32 at
    least; everything else, such as the statistics of batch norms, is the model's own.

    The averages are the set ``ema`` of the trainer's ``weight_sets``: they are evaluated (``ema/box/AP``) and saved
    (``model_final_ema.pth``) beside the raw weights, and a checkpoint holds them.

    Args:
        decay: the share of the average that an update keeps, within 0..1.
        warm_up: whether it begins lower.
        period: steps between updates.

    Raises:
        ValueError: ``decay`` is 1; or, as training begins, a resumed average of other parameters.
    """

    def __init__(self, *, decay: Fraction = 0.9998, warm_up: bool = True, period: Count = 1):
        super().__init__()
        if decay == 1:
            raise ValueError("ExponentialMovingAverage: with a decay of 1 the average never changes; expected below 1")
        self.decay, self.warm_up, self.period = decay, warm_up, period
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    def decay_at(self, update: int) -> float:
        """The decay of the update numbered ``update``, from 1 on."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warm_up else self.decay

    def before_train(self, trainer: Training) -> None:
        changed = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
        named = trainer.unwrapped_model.named_parameters()
        self._weights = {name: p.detach() for name, p in named if id(p) in changed}
        if not self.average:
            self.average = {name: _widened(value).clone() for name, value in self._weights.items()}
        own = self._weights
        shapes, expected = ({(n, v.shape) for n, v in values.items()} for values in (self.average, own))
        other = {name for name, _ in shapes ^ expected}
        if other:
            raise ValueError(
                "train.hooks: ExponentialMovingAverage: the average of the checkpoint is not one of this model's"
                f" learned parameters; {len(other)} differ, such as {min(other)}. Start a new run: train.init_weights"
            )
        self.average = {n: distribute(value.to(own[n].device), like=own[n]) for n, value in self.average.items()}
        trainer.weight_sets[NAME] = self.weights

    @torch.no_grad()
    def after_step(self, trainer: Training) -> None:
        if trainer.finished % self.period:
            return
        self.updates += 1
        weights = [_widened(self._weights[name]) for name in self.average]
        get_ema_multi_avg_fn(self.decay_at(self.updates))(list(self.average.values()), weights, None)

    @contextlib.contextmanager
    def weights(self) -> Iterator[None]:
        """A context inside which the model's weights are the averages; afterwards they are what they were."""
        raw = {name: value.clone() for name, value in self._weights.items()}
        try:
            self._put(self.average)
            yield
        finally:
            self._put(raw)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self._weights[name].copy_(value)  # in place: what holds the parameters, or watches their version, sees it

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": dict(self.average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates, self.average = state["updates"], {n: v.clone() for n, v in state["average"].items()}


def _widened(value: Tensor) -> Tensor:
    """In float32 where it is narrower: a half has no digits for what one step adds to an average."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
