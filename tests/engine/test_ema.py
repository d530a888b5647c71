"""Moving averages: their formula, and that they are evaluated and saved beside the raw weights."""

import contextlib
import json

import pytest
import torch

from detkit.checkpoint import Checkpointer, load_weights
from detkit.engine import CheckpointHook, EvalHook, ExponentialMovingAverage, Hook, MetricsWriter


class Keep(Hook):
    """Keeps the weights after every step."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def after_step(self, trainer):
        self.weights.append({n: p.detach().double().clone() for n, p in trainer.model.named_parameters()})


@pytest.mark.parametrize("period", [1, 3])
@pytest.mark.parametrize("warm_up", [True, False])
def test_the_average_is_the_formulas(make_trainer, period, warm_up):
    keep, ema = Keep(), ExponentialMovingAverage(decay=0.3, warm_up=warm_up, period=period)
    trainer = make_trainer(8, [keep, ema])
    expected = {n: p.detach().double().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    for update, weights in enumerate(keep.weights[period - 1 :: period], 1):
        decay = min(0.3, (1 + update) / (10 + update)) if warm_up else 0.3
        expected = {n: decay * v + (1 - decay) * weights[n] for n, v in expected.items()}
    assert ema.updates == 8 // period
    for name, value in expected.items():
        torch.testing.assert_close(ema.average[name].double(), value, rtol=1e-6, atol=1e-7)


def test_what_stands_still_is_its_own_average_to_the_last_bit(make_trainer):
    ema = ExponentialMovingAverage(decay=0.9)
    trainer = make_trainer(5, [ema])
    trainer.model.linear.weight.requires_grad_(False)
    trainer.model.linear.weight.mul_(1 / 3)
    trainer.train()
    assert torch.equal(ema.average["linear.weight"], trainer.model.linear.weight)


def test_the_context_swaps_and_gives_back_to_the_last_bit(make_trainer):
    ema = ExponentialMovingAverage(decay=0.9)
    trainer = make_trainer(4, [ema])
    trainer.train()
    raw, pointer = trainer.model.linear.weight.detach().clone(), trainer.model.linear.weight.data_ptr()
    with contextlib.suppress(KeyError), trainer.weight_sets["ema"]():
        assert torch.equal(trainer.model.linear.weight, ema.average["linear.weight"])
        assert not torch.equal(trainer.model.linear.weight, raw)
        raise KeyError
    assert torch.equal(trainer.model.linear.weight, raw)
    assert trainer.model.linear.weight.data_ptr() == pointer


def test_it_changes_nothing_in_training(make_trainer):
    plain, averaged = make_trainer(6), make_trainer(6, [ExponentialMovingAverage(), EvalHook(dict, 1)])
    for trainer in (plain, averaged):
        torch.manual_seed(3)
        trainer.train()
    assert torch.equal(plain.model.linear.weight, averaged.model.linear.weight)


def test_both_sets_of_weights_are_evaluated_and_saved(make_trainer, tmp_path):
    ema = ExponentialMovingAverage(decay=0.9)

    def evaluate():
        return {"box": {"AP": trainer.model.linear.weight.sum().item()}}

    checkpoints = CheckpointHook(Checkpointer(tmp_path / "run"), None)
    trainer = make_trainer(4, [MetricsWriter(), ema, checkpoints, EvalHook(evaluate, 2)], log_period=100)
    trainer.train()
    raw, mean = trainer.model.linear.weight.sum().item(), ema.average["linear.weight"].sum().item()
    assert trainer.results == {"box": {"AP": raw}, "ema": {"box": {"AP": mean}}}
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(line["box/AP"], line["ema/box/AP"]) for line in lines if "box/AP" in line][-1] == (raw, mean)
    other = make_trainer(1).model
    assert load_weights(other, tmp_path / "run/model_final_ema.pth").exact
    assert torch.equal(other.linear.weight, ema.average["linear.weight"])
    load_weights(other, tmp_path / "run/model_final.pth")
    assert torch.equal(other.linear.weight, trainer.model.linear.weight)


def test_another_models_average_is_refused(make_trainer):
    old, new = make_trainer(2, [ExponentialMovingAverage()]), make_trainer(4, [ExponentialMovingAverage()])
    old.train()
    new.load_state_dict(old.state_dict())
    new.optimizer.param_groups[0]["params"] = [new.model.linear.weight]
    with pytest.raises(ValueError, match=r"ExponentialMovingAverage.*linear\.bias.*init_weights"):
        new.train()


def test_an_average_that_never_changes_is_refused():
    with pytest.raises(ValueError, match="ExponentialMovingAverage"):
        ExponentialMovingAverage(decay=1.0)
