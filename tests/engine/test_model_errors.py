"""Mistakes that torch meets in a step are told in words of the config."""

import pytest
import torch
from processes import in_processes
from torch import nn

from detkit.engine import DDP, Trainer
from detkit.registry import ConfigError
from detkit.structures import Losses, Sample


class Model(nn.Module):
    """A norm at the end, and a part that the losses do not use."""

    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 4), norm)
        self.spare = nn.Linear(4, 2)

    def forward(self, samples):
        images = torch.stack([s.image.flatten() for s in samples]).float() / 255
        return Losses({"loss": self.body(images).square().mean()}, {})


def batches(start):
    while True:
        yield [Sample(torch.full((3, 1, 1), 7, dtype=torch.uint8), (1, 1), image_id=0)]


def trainer(model, steps=1, wrap=None, **options):
    model = model if wrap is None else wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Trainer(model, optimizer, lambda *_: 1.0, batches, steps, **options)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False), nn.GroupNorm(4, 4)])
def test_a_norm_of_one_value_is_named(norm):
    with pytest.raises(ConfigError, match=r"model\.body\.1: a norm cannot learn.*data\.batch_size.*norm=GN"):
        trainer(Model(norm)).train()


def test_other_errors_of_a_model_stay_what_they_are():
    class Wrong(Model):
        def forward(self, samples):
            raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine\b"):
        trainer(Wrong(nn.Identity())).train()


def unused(rank, accumulate):
    for options, error in (({}, True), ({"find_unused_parameters": True}, False)):
        run = trainer(Model(nn.Identity()), 1, DDP(**options).wrap, accumulate=accumulate)
        if not error:
            run.train()
            continue
        before = [parameter.clone() for parameter in run.model.parameters()]
        with pytest.raises(ConfigError, match=r"such as spare\.weight, spare\.bias.*find_unused_parameters=true"):
            run.train()
        assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True)), "no step was made"
    model = Model(nn.Identity())
    model.spare.requires_grad_(False)
    trainer(model, 2, DDP().wrap, accumulate=accumulate).train()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_parameters_without_a_gradient_are_named_before_the_weights_change(accumulate):
    in_processes(unused, accumulate)
