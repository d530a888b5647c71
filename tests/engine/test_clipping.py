"""Clipping, and steps in half precision."""

import itertools

import pytest
import torch
from lines import lines_of
from torch import nn

from detkit.engine import EvalHook, Trainer
from detkit.engine.clipping import Clipping
from detkit.experiment import load_experiment
from detkit.registry import ConfigError
from detkit.structures import Losses, Sample

CONFIG = "configs/quick_start/mask_rcnn_shapes.yaml"
BATCH = [Sample(torch.zeros(3, 2, 2, dtype=torch.uint8), (2, 2))]


class Two(nn.Module):
    """Gradients as given: of norm 5 and of norm 1."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.large, self.small = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
        self.factor, self.seen = factor, []

    def forward(self, samples):
        if not self.training:
            return self.seen.append(torch.is_autocast_enabled("cpu"))
        loss = (self.large * torch.tensor([3.0, -4.0])).sum() + self.small.sum()
        return Losses({"loss": loss * self.factor})


def train(model, steps=1, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = Trainer(model, optimizer, lambda s, n: 1.0, itertools.repeat(BATCH), steps, log_period=1, **options)
    lines = lines_of(trainer)
    trainer.train()
    return trainer, lines


@pytest.mark.parametrize(
    ("options", "large", "small", "clipped"),
    [
        ({"clip_grad_norm": 13.0}, [3, -4], 1, None),
        ({"clip_grad_norm": 26**0.5 / 2}, [1.5, -2], 0.5, None),
        ({"clip_param_norm": 2.5}, [1.5, -2], 1, 1 / 2),
        ({"clip_param_norm": 0.5}, [0.3, -0.4], 0.5, 1),
        ({"clip_grad_value": 3.5}, [3, -3.5], 1, 1 / 3),
        ({}, [3, -4], 1, None),
    ],
)
def test_gradients_are_clipped_and_logged(options, large, small, clipped):
    trainer, (line,) = train(Two(), **options)
    assert trainer.model.large.tolist() == pytest.approx([-v for v in large], rel=1e-5)
    assert trainer.model.small.item() == pytest.approx(-small, rel=1e-5)
    assert line.get("clipped") == (None if clipped is None else pytest.approx(clipped))
    assert line.get("grad_norm") == (pytest.approx(26**0.5) if options else None)


def test_one_rule_at_most(pytestconfig):
    with pytest.raises(ValueError, match="clip_grad_norm 1, clip_grad_value 2"):
        Clipping(norm=1, value=2)
    with pytest.raises(ValueError, match="clip_param_norm"):
        train(Two(), clip_param_norm=0.0)
    for overrides in (["solver.clip_grad_value=0.1"], ["solver.clip_grad_norm=-1"]):  # the config has a global norm
        with pytest.raises(ConfigError, match=r"solver.*clip_grad_norm"):
            load_experiment(pytestconfig.rootpath / CONFIG, overrides)


@pytest.mark.parametrize("options", [{}, {"clip_grad_norm": 1.0}, {"accumulate": 2}])
def test_scaled_losses_change_nothing_but_the_range(options):
    (plain, _), (half, lines) = train(Two(), 3, **options), train(Two(), 3, precision="fp16", **options)
    assert half.training_step.scaler.get_scale() > 1
    assert torch.equal(plain.model.large, half.model.large)  # a scale is a power of two
    assert [line["skipped"] for line in lines] == [0, 0, 0]


def test_a_step_whose_gradients_overflow_is_skipped_and_counted():
    trainer, (line,) = train(Two(factor=1e36), precision="fp16", clip_grad_norm=1.0)
    assert line["skipped"] == 1
    assert torch.equal(trainer.model.large, torch.zeros(2))
    assert trainer.training_step.scaler.get_scale() == 2.0**15, "and the next step is scaled less"
    again, _ = train(Two(), precision="fp16")
    again.training_step.scaler.load_state_dict(trainer.training_step.scaler.state_dict())
    assert again.training_step.scaler.get_scale() == 2.0**15


@pytest.mark.parametrize(("precision", "wanted"), [("fp32", False), ("bf16", True)])
def test_evaluations_during_training_have_its_precision(precision, wanted):
    model = Two()

    def evaluate():
        model.eval()(BATCH)
        return {}

    train(model, 1, precision=precision, hooks=[EvalHook(evaluate)])
    assert model.seen == [wanted]
    assert not torch.is_autocast_enabled("cpu")


def test_an_unknown_precision_is_an_error(pytestconfig):
    with pytest.raises(ValueError, match="fp32, bf16 or fp16, got 'fp8'"):
        train(Two(), precision="fp8")
    with pytest.raises(ConfigError, match=r"train\.precision"):
        load_experiment(pytestconfig.rootpath / CONFIG, ["train.precision=half"])
