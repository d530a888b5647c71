"""Class losses: in a box head, and what federated and seesaw loss do with the numbers of the classes."""

from functools import partial

import pytest
import torch
from small import sample, small_model

from detkit.checkpoint import Checkpoint, load_weights
from detkit.config import Recipe
from detkit.data import images_per_class
from detkit.experiment import load_experiment
from detkit.layers.norm import keep_running_statistics
from detkit.modeling.class_losses import (
    FederatedClassLoss,
    FocalClassLoss,
    SeesawClassLoss,
    SigmoidClassLoss,
    SoftmaxClassLoss,
)
from detkit.structures import ImageInfo

LOSSES = [SoftmaxClassLoss, SigmoidClassLoss, FederatedClassLoss, SeesawClassLoss]


@pytest.mark.parametrize("cls", LOSSES)
def test_a_box_head_learns_and_detects_with_it(cls):
    torch.manual_seed(0)
    model, samples = small_model(class_loss=cls), [sample(num=2), sample(num=0, seed=1)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    totals = []
    for _ in range(8):
        losses = model(samples)
        names = [name for name in losses.terms if name.startswith("loss_cls")]
        assert names
        assert set(names) <= losses.normalisers.keys()
        totals.append(sum(losses.terms[name] for name in names))
        optimizer.zero_grad()
        losses.total().backward()
        optimizer.step()
    assert totals[-1] < totals[0]
    model.roi_heads.box_head.detection = model.roi_heads.box_head.detection.__class__(score_thresh=0.0)
    with torch.no_grad():
        (found, _) = model.eval()(samples)
    assert len(found.instances)
    assert found.instances.scores.max() <= 1


@pytest.mark.parametrize("cls", LOSSES)
def test_classes_that_nobody_labels_get_no_gradient(cls):
    model, one = small_model(class_loss=cls), sample(num=2)
    classes = torch.zeros_like(one.target.classes)
    known = ImageInfo(active_classes=torch.tensor([True, False, True]))
    proposals = one.target.with_fields(classes=classes, gt_boxes=one.target.boxes).with_info(known)
    head = model.roi_heads.box_head
    losses = head.loss(model.features(model.preprocess([one])), [proposals])
    sum(value for name, value in losses.terms.items() if name.startswith("loss_cls")).backward()
    rows = head.cls_score.weight.grad.abs().sum(dim=1)
    assert torch.isfinite(rows).all()
    assert rows[1] == 0
    assert rows[0] > 0


@pytest.mark.parametrize("cls", [*LOSSES, FocalClassLoss])
def test_the_predicted_class_is_the_likeliest_or_background(cls):
    loss = cls(3)
    logits = torch.full((4, loss.num_logits), -6.0)
    logits[torch.arange(3), torch.arange(3)] = 6.0
    if cls is SeesawClassLoss:
        logits[:3, 3] = 6.0  # there is an object
    if cls in (SoftmaxClassLoss, SeesawClassLoss):
        logits[3, -1] = 6.0
    assert loss.predicted(logits).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("cls", LOSSES)
def test_accuracy_of_a_box_head_that_knows_the_background_alone_is_the_share_of_background(cls):
    model = small_model(class_loss=cls)
    head = model.roi_heads.box_head
    torch.nn.init.zeros_(head.cls_score.weight)
    with torch.no_grad():
        head.cls_score.bias.fill_(-6.0)[-1] = 6.0
    metrics = model([sample(num=0), sample(num=0, seed=1)]).metrics
    assert metrics["box_head/accuracy"] == 1


def test_every_class_loss_is_told_how_many_images_have_each_class(monkeypatch):
    seen = []
    monkeypatch.setattr(SoftmaxClassLoss, "set_image_counts", lambda _, counts: seen.append(counts.tolist()))
    experiment = load_experiment("quick_start/mask_rcnn_shapes", ["data.train_dataset.num_images=20"])
    experiment.build_model()
    assert seen == [images_per_class(experiment.data.train_set).tolist()]
    experiment.build_model(num_classes=3)
    assert len(seen) == 1, "nothing is known of other classes"


def test_federated_classes_are_drawn_in_proportion_to_a_power_of_their_images():
    torch.manual_seed(0)
    loss = FederatedClassLoss(4, num_places=1)
    loss.set_image_counts(torch.tensor([100, 25, 0, 4]))
    drawn = torch.stack([loss.chosen(torch.tensor([-1])) for _ in range(4000)]).float().mean(0)
    torch.testing.assert_close(drawn, torch.tensor([10.0, 5, 0, 2, 0]) / 17, atol=0.03, rtol=0)


def test_federated_counts_come_from_the_training_data():
    options = ["data.train_dataset.num_images=20", "model.roi_heads.box_head.class_loss={name: FederatedClassLoss}"]
    experiment = load_experiment("quick_start/mask_rcnn_shapes", options)
    data, counts = experiment.data.train_set, experiment.build_model().roi_heads.box_head.class_loss.image_counts
    objects = [set(data[i].objects.classes.tolist()) for i in range(len(data))]
    assert counts.tolist() == [sum(k in classes for classes in objects) for k in range(len(counts))]
    assert len(set(counts.tolist())) > 1


def test_seesaw_counts_in_steps_of_the_training_alone_and_keeps_its_counts_with_the_weights():
    loss, logits, classes = SeesawClassLoss(3), torch.randn(5, 5), torch.tensor([0, 0, 2, 3, -1])
    loss(logits, classes)
    with keep_running_statistics(loss):
        loss(logits, classes)
    loss.eval()(logits, classes)
    assert loss.class_counts.tolist() == [2, 0, 1, 1]
    assert "class_loss.class_counts" in small_model(class_loss=SeesawClassLoss).roi_heads.box_head.state_dict()
    assert not any("class_loss" in name for name in small_model(class_loss=FederatedClassLoss).state_dict())


@pytest.mark.parametrize("cls", [FederatedClassLoss, SeesawClassLoss])
def test_parts_of_a_batch_are_counted_and_drawn_for_once(cls):
    whole, parts = (partial(cls, **({"num_places": 2} if cls is FederatedClassLoss else {}))(6) for _ in range(2))
    logits, classes = torch.randn(9, whole.num_logits), torch.tensor([0, 1, 1, 6, 6, -1, 4, 6, 6])
    torch.manual_seed(3)
    expected = whole(logits, classes)
    torch.manual_seed(3)
    loss = parts.over(classes)
    found = [loss(a, b) for a, b in zip(logits.split(3), classes.split(3))]
    for name, value in expected.items():
        torch.testing.assert_close(sum(part[name] for part in found), value)
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), parts.buffers()))


def test_seesaw_spares_rare_classes():
    loss = partial(SeesawClassLoss, q=0.0)
    gradients = []
    for counts in ([100, 100, 100], [100, 1, 100]):
        seesaw, logits = loss(3).eval(), torch.zeros(1, 5, requires_grad=True)
        seesaw.class_counts[:3] = torch.tensor(counts)
        sum(seesaw(logits, torch.tensor([0])).values()).backward()
        gradients.append(logits.grad[0, 1])
    assert 0 < gradients[1] < 0.1 * gradients[0]


def test_rows_of_both_objectness_logits_follow_to_other_classes():
    head = small_model(class_loss=Recipe(SeesawClassLoss)).roi_heads.box_head
    assert head.class_rows["cls_score.weight"].num_rows(3) == len(head.cls_score.weight) == 5


def test_seesaw_counts_follow_the_names_of_the_classes():
    trained, tuned = (small_model(class_loss=SeesawClassLoss) for _ in range(2))
    trained.class_names, tuned.class_names = ("a", "b", "c"), ("c", "new", "a")
    trained.roi_heads.box_head.class_loss.class_counts.copy_(torch.tensor([1, 2, 3, 9]))
    load_weights(tuned, Checkpoint(trained.state_dict(), class_names=trained.class_names))
    assert tuned.roi_heads.box_head.class_loss.class_counts.tolist() == [3, 0, 1, 9]
