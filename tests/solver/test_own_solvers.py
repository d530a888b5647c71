"""Optimizers and schedules of a user's own: those of torch train, and what cannot is named."""

import pytest
import torch
from tiny_detector import tiny_experiment

from detkit.config import ConfigError, Recipe
from detkit.solver.interfaces import LRSchedule, Optimizer


class OwnRMSprop(Optimizer, torch.optim.RMSprop):
    def __init__(self, model, lr_scale, *, lr: float = 0.1):
        torch.optim.RMSprop.__init__(self, model.parameters(), lr=lr * lr_scale)


class OwnLBFGS(Optimizer, torch.optim.LBFGS):
    def __init__(self, model, lr_scale):
        torch.optim.LBFGS.__init__(self, model.parameters())


class Bare(Optimizer):
    def __init__(self, model, lr_scale):
        self.param_groups = torch.optim.SGD(model.parameters()).param_groups


class Given(LRSchedule):
    def __init__(self, *, value: object):
        self.value = value

    def __call__(self, step, max_iter):
        return self.value


def _optimizer(cls):
    experiment = tiny_experiment()
    experiment.solver.optimizer = Recipe(cls)
    return experiment.build_optimizer(torch.nn.Linear(2, 2))


def test_an_optimizer_of_torch_is_taken():
    assert _optimizer(OwnRMSprop).param_groups[0]["lr"] == pytest.approx(0.1 * 4 / 8)


@pytest.mark.parametrize(
    ("cls", "words"),
    [(OwnLBFGS, r"OwnLBFGS\.step needs a closure"), (Bare, "Bare has no attribute 'state', which each optimizer sets")],
)
def test_an_optimizer_that_cannot_train_is_named(cls, words):
    with pytest.raises(ConfigError, match=rf"^solver\.optimizer: .*{words}"):
        _optimizer(cls)


@pytest.mark.parametrize("value", [None, float("nan"), -1.0, torch.ones(1), "1"])
def test_a_schedule_gives_a_factor(value):
    experiment = tiny_experiment()
    experiment.solver.schedule = Recipe(Given, {"value": value})
    with pytest.raises(ConfigError, match=r"solver\.schedule: Given: expected a factor of at least 0"):
        experiment.build_schedule()
    experiment.solver.schedule = Recipe(Given, {"value": 0.5})
    assert experiment.build_schedule()(3, 4) == 0.5
