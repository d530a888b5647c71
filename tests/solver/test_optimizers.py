"""Parameter groups, and that the optimizers are torch's own."""

import inspect
import typing

import pytest
import torch
from torch import nn

from detkit.registry import runtime_arguments
from detkit.solver import OPTIMIZERS, SGD, AdamW


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, bias=False))
        self.norms = nn.ModuleList([nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.SyncBatchNorm(4)])
        self.head = nn.Linear(4, 2)
        self.tied = nn.Linear(4, 2)
        self.tied.weight = self.head.weight
        self.backbone[0].weight.requires_grad = False


def group_of(optimizer, parameter):
    [group] = [g for g in optimizer.param_groups if any(p is parameter for p in g["params"])]
    return group


def test_norms_biases_frozen_and_shared():
    model = Model()
    optimizer = SGD(model, 0.5, lr=0.02, weight_decay=1e-2, weight_decay_bias=3e-3, bias_lr_factor=2.0)
    assert group_of(optimizer, model.head.weight)["weight_decay"] == 1e-2
    assert group_of(optimizer, model.head.weight)["lr"] == 0.01
    bias = group_of(optimizer, model.head.bias)
    assert (bias["weight_decay"], bias["lr"], bias["initial_lr"]) == (3e-3, 0.02, 0.02)
    for norm in (model.backbone[1], *model.norms):
        for parameter in norm.parameters():
            assert group_of(optimizer, parameter)["weight_decay"] == 0.0
            assert group_of(optimizer, parameter)["lr"] == 0.01
    listed = [p for g in optimizer.param_groups for p in g["params"]]
    assert len(listed) == len({id(p) for p in listed}) == sum(p.requires_grad for p in model.parameters())
    assert len(optimizer.param_groups) == 3


def test_detectron2_defaults_give_two_groups():
    optimizer = SGD(Model(), 1.0, lr=0.02)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [1e-4, 0.0]
    assert all((g["lr"], g["momentum"], g["nesterov"]) == (0.02, 0.9, False) for g in optimizer.param_groups)


def test_lr_factors_the_longest_name_wins():
    model = Model()
    optimizer = AdamW(model, 2.0, lr=1e-3, lr_factors={"backbone": 0.1, "backbone.2": 0.5})
    assert group_of(optimizer, model.backbone[0].bias)["initial_lr"] == pytest.approx(2e-4)
    assert group_of(optimizer, model.backbone[2].weight)["initial_lr"] == pytest.approx(1e-3)
    assert group_of(optimizer, model.head.weight)["initial_lr"] == pytest.approx(2e-3)
    with pytest.raises(ValueError, match=r"no submodule 'backbon'.*backbone, norms, head"):
        AdamW(model, 1.0, lr=1e-3, lr_factors={"backbon": 0.1})


@pytest.mark.parametrize(("ours", "torchs"), [(SGD, torch.optim.SGD), (AdamW, torch.optim.AdamW)])
def test_steps_as_torchs_own(ours, torchs):
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    two = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    two.load_state_dict(one.state_dict())
    extra = {"momentum": 0.9} if ours is SGD else {}
    optimizers = [
        ours(one, 1.0, lr=0.1, weight_decay=0.01),
        torchs(two.parameters(), lr=0.1, weight_decay=0.01, **extra),
    ]
    inputs = torch.randn(5, 3)
    for _ in range(4):
        for model, optimizer in zip((one, two), optimizers):
            optimizer.zero_grad(set_to_none=True)
            model(inputs).square().mean().backward()
            optimizer.step()
    for a, b in zip(one.parameters(), two.parameters()):
        torch.testing.assert_close(a, b)
    assert isinstance(optimizers[0], torchs)


def test_the_registered_signature_is_the_schema():
    for name in ("SGD", "AdamW"):
        cls = OPTIMIZERS.get(name)
        assert runtime_arguments(cls) == ("model", "lr_scale")
        assert typing.get_type_hints(cls.__init__)
        assert "lr" in inspect.signature(cls).parameters


def test_mistakes_are_named_with_their_fix():
    with pytest.raises(ValueError, match=r"no trainable parameter.*freeze_at"):
        SGD(nn.Linear(1, 1).requires_grad_(False), 1.0, lr=0.1)
    with pytest.raises(ValueError, match=r"weight_decay.*-1"):
        SGD(nn.Linear(1, 1), 1.0, lr=0.1, weight_decay=-1.0)
    with pytest.raises(ValueError, match="lr_scale"):
        SGD(nn.Linear(1, 1), 0.0, lr=0.1)


class Deep(nn.Module):
    """A backbone of three layers, with a parameter beside them, and a head."""

    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Parameter(torch.ones(1))
            self.stem, self.one, self.two = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Linear(4, 4)

        def layers(self):
            return [["stem"], ["one"], ["two"]]

        def added_layers(self):
            return ["two.bias"]

    def __init__(self):
        super().__init__()
        self.backbone, self.head = self.Backbone(), nn.Linear(4, 2)


def test_layers_learn_slower_the_nearer_they_are_to_the_image():
    model = Deep()
    backbone = model.backbone
    optimizer = AdamW(model, 2.0, lr=0.1, layer_decay=0.5, lr_factors={"backbone.one": 3.0})
    rates = {backbone.stem: 0.2 / 8, backbone.one: 3 * 0.2 / 4, backbone.two: 0.2 / 2, model.head: 0.2}
    for module, rate in rates.items():
        assert group_of(optimizer, module.weight)["initial_lr"] == pytest.approx(rate)
    assert group_of(optimizer, backbone.embedding)["initial_lr"] == pytest.approx(0.2 / 8)
    assert group_of(optimizer, backbone.two.bias)["initial_lr"] == pytest.approx(0.2), "no pre-trained layer"
    optimizer = SGD(model, 1.0, lr=0.1, layer_decay=0.5, bias_lr_factor=2.0)
    assert group_of(optimizer, backbone.one.bias)["initial_lr"] == pytest.approx(2 * 0.1 / 4)
    assert {g["initial_lr"] for g in SGD(model, 1.0, lr=0.1, layer_decay=1.0).param_groups} == {0.1}
    with pytest.raises(ValueError, match="no part of Linear has layers"):
        SGD(nn.Linear(1, 1), 1.0, lr=0.1, layer_decay=0.5)
    with pytest.raises(ValueError, match=r"layer_decay: .*1\.5"):
        SGD(model, 1.0, lr=0.1, layer_decay=1.5)


def test_weight_decay_by_name_comes_before_every_other_rule():
    model = Deep()
    optimizer = AdamW(model, 1.0, lr=0.1, weight_decay=0.1, weight_decay_by_name={"embedding": 0.0, "bias": 0.02})
    assert group_of(optimizer, model.backbone.embedding)["weight_decay"] == 0.0
    assert group_of(optimizer, model.head.bias)["weight_decay"] == 0.02
    assert group_of(optimizer, model.head.weight)["weight_decay"] == 0.1
    with pytest.raises(ValueError, match="weight_decay_by_name: no parameter of the model is called 'embeding'"):
        SGD(model, 1.0, lr=0.1, weight_decay_by_name={"embeding": 0.0})
    with pytest.raises(ValueError, match=r"weight_decay_by_name: .*'bias', got -1"):
        SGD(model, 1.0, lr=0.1, weight_decay_by_name={"bias": -1.0})
