"""Fillers: rows of fixed number, as on a GPU, give what the rows alone give, and only go to parts that know of them."""

import dataclasses

import pytest
import torch
from small import sample, small_model

from detkit.layers import waits
from detkit.modeling import interfaces
from detkit.modeling.fillers import without_fillers
from detkit.modeling.roi_heads import FastRCNNConvFCHead, StandardRoIHeads
from detkit.structures import Boxes, Instances


def on_a_gpu(monkeypatch):
    monkeypatch.setattr(waits, "waits_for", lambda device: True)


def few_proposals(model):
    """Fewer than there is room for."""
    generator = model.proposal_generator
    generator.selection = dataclasses.replace(generator.selection, nms_thresh=0.3)
    return model


def everything_is_sampled(model):
    """Nothing is random then."""
    few_proposals(model)
    for part in (model.proposal_generator, model.roi_heads):
        part.batch_size_per_image, part.positive_fraction = 100_000, 1.0
    return model


def step(model, samples):
    model.zero_grad()
    losses = model.loss(samples)
    losses.total().backward()
    return losses, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("nums", [(1, 3), (0, 2), (0, 0)])
def test_losses_metrics_counts_and_gradients_do_not_change(monkeypatch, nums):
    model = everything_is_sampled(small_model())
    samples = [sample(num=num, seed=seed) for seed, num in enumerate(nums)]
    head, seen = model.roi_heads.box_head, []
    loss = head.loss
    monkeypatch.setattr(head, "loss", lambda features, proposals: seen.append(proposals) or loss(features, proposals))
    plain, gradients = step(model, samples)
    on_a_gpu(monkeypatch)
    filled, gradients_of_filled = step(model, samples)
    compact, padded = ([of_image.classes for of_image in proposals] for proposals in seen)
    assert all((classes >= 0).all() for classes in compact)
    assert any((classes == -1).any() for classes in padded)
    assert [classes[classes >= 0].sort().values.tolist() for classes in padded] == [
        classes.sort().values.tolist() for classes in compact
    ]
    for kind in ("terms", "metrics", "counts"):
        torch.testing.assert_close(getattr(filled, kind), getattr(plain, kind))
    torch.testing.assert_close(gradients_of_filled, gradients)


def test_proposals_are_the_same_before_the_fillers(monkeypatch):
    model, samples = few_proposals(small_model()), [sample(seed=1), sample(seed=2)]
    images = model.preprocess(samples)
    features, targets = model.features(images), [s.target for s in samples]
    plain, _ = model.proposal_generator.loss(images, features, targets)
    assert all(torch.isfinite(of_image.objectness).all() for of_image in plain)
    on_a_gpu(monkeypatch)
    filled, _ = model.proposal_generator.loss(images, features, targets)
    assert len({len(of_image) for of_image in filled}) == 1
    assert sum(map(len, filled)) > sum(map(len, plain))
    for bare, of_image in zip(without_fillers(filled), plain):
        assert torch.equal(bare.boxes.tensor, of_image.boxes.tensor)
        assert torch.equal(bare.objectness, of_image.objectness)
    predicted = model.proposal_generator.predict(images, features)
    assert all(torch.isfinite(of_image.objectness).all() for of_image in predicted)


class OwnLossHead(FastRCNNConvFCHead):
    """As a user may write one who has never heard of fillers."""

    def loss(self, features, proposals):
        assert all((p.classes >= 0).all() for p in proposals)
        return super().loss(features, proposals)


class KnowingHead(FastRCNNConvFCHead):
    takes_fillers = True

    def loss(self, features, proposals):
        self.has_met_fillers = any((p.classes == -1).any() for p in proposals)
        return super().loss(features, proposals)


class OwnLossRoIHeads(StandardRoIHeads):
    def loss(self, features, proposals, targets):
        assert all(torch.isfinite(p.objectness).all() for p in proposals)
        assert all((sampled.classes >= 0).all() for sampled in self.sample(proposals, targets))
        return super().loss(features, proposals, targets)


class Mixin:
    """A loss that comes from beside."""

    def loss(self, features, proposals):
        assert all((p.classes >= 0).all() for p in proposals)
        return FastRCNNConvFCHead.loss(self, features, proposals)


class MixedHead(Mixin, FastRCNNConvFCHead):
    pass


class OtherScoreHead(FastRCNNConvFCHead):
    """Its loss is the inherited one."""

    def predict(self, features, instances):
        return super().predict(features, instances)


def test_who_writes_a_loss_says_anew_that_it_takes_them(monkeypatch):
    assert FastRCNNConvFCHead.takes_fillers
    assert StandardRoIHeads.takes_fillers
    assert OtherScoreHead.takes_fillers
    assert not OwnLossHead.takes_fillers
    assert not MixedHead.takes_fillers
    assert not type("Heir", (MixedHead,), {}).takes_fillers
    assert not OwnLossRoIHeads.takes_fillers
    assert not interfaces.BoxHead.takes_fillers
    on_a_gpu(monkeypatch)
    samples = [sample(num=1), sample(num=3, seed=1)]
    for head_class, heads_class in (
        (OwnLossHead, StandardRoIHeads),
        (MixedHead, StandardRoIHeads),
        (FastRCNNConvFCHead, OwnLossRoIHeads),
        (KnowingHead, StandardRoIHeads),
    ):
        model = everything_is_sampled(small_model())
        model.roi_heads.box_head.__class__, model.roi_heads.__class__ = head_class, heads_class
        losses, gradients = step(model, samples)
        assert torch.isfinite(losses.total())
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert model.roi_heads.box_head.has_met_fillers


def test_fillers_are_not_sampled():
    heads = everything_is_sampled(small_model()).roi_heads
    target = sample(num=2).target
    far = torch.tensor([[0.0, 0, 3, 3]]).repeat(4, 1)
    real = Instances(target.image_size, boxes=Boxes(far), objectness=torch.zeros(4))
    filled = real.with_fields(objectness=torch.tensor([0.0, 0, -torch.inf, -torch.inf]))
    (some,) = heads.sample([filled], [target])
    (every,) = heads.sample([real], [target])
    assert [(s.classes == heads.num_classes).sum() for s in (some, every)] == [2, 4]
    assert without_fillers([filled])[0].objectness.tolist() == [0, 0]
    assert without_fillers([]) == []


@pytest.mark.parametrize("frozen", [False, True])
def test_a_batch_norm_counts_no_fillers(monkeypatch, frozen):
    """Its statistics are those of the samples; one that computes none lets fillers pass."""
    model = everything_is_sampled(small_model())
    head = model.roi_heads.box_head
    head.convs = torch.nn.Sequential(torch.nn.BatchNorm2d(head.pooler.output_shape.channels))
    model.train()
    head.convs.train(not frozen)
    samples = [sample(num=0), sample(num=3, seed=1)]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    plain, gradients = step(model, samples)
    statistics = head.convs[0].running_var.clone()
    model.load_state_dict(state)
    on_a_gpu(monkeypatch)
    assert model.roi_heads.may_have_fillers == frozen
    filled, gradients_of_filled = step(model, samples)
    torch.testing.assert_close(filled.terms, plain.terms)
    torch.testing.assert_close(gradients_of_filled, gradients)
    torch.testing.assert_close(head.convs[0].running_var, statistics)


def test_proposals_without_objectness_have_no_fillers():
    boxes = Instances((64, 96), boxes=Boxes([[0.0, 0, 9, 9]]))
    assert without_fillers([boxes]) == [boxes]
