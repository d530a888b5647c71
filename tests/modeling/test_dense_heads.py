"""One-stage detectors: which anchor learns what, what losses are divided by, and which boxes come out."""

import dataclasses
import types
from functools import partial

import pytest
import torch
from small import sample
from torchvision.models.detection import FCOS

from detkit.checkpoint import load_weights
from detkit.experiment import load_experiment
from detkit.layers import ShapeSpec
from detkit.layers.norm import keep_running_statistics
from detkit.modeling.anchors import CellAnchorGenerator, GridAnchorGenerator
from detkit.modeling.backbones import ResNet
from detkit.modeling.box_coder import SideBoxCoder
from detkit.modeling.class_losses import (
    FederatedClassLoss,
    FocalClassLoss,
    SeesawClassLoss,
    SigmoidClassLoss,
    SoftmaxClassLoss,
)
from detkit.modeling.compiling import static_parts
from detkit.modeling.dense_heads import (
    BatchNormaliser,
    CentreAssigner,
    FCOSHead,
    ImageNormaliser,
    IoUAssigner,
    MovingNormaliser,
    RetinaNetHead,
)
from detkit.modeling.dense_heads.fcos import centreness
from detkit.modeling.matcher import Matcher
from detkit.modeling.meta_archs import DenseDetector
from detkit.modeling.necks import FPN, LastLevelP6P7
from detkit.registry import ConfigError
from detkit.structures import Boxes, ImageInfo, Instances, Losses

SHAPES = {f"p{i}": ShapeSpec(16, 2**i) for i in (3, 4, 5)}
SQUARES = partial(GridAnchorGenerator, sizes=((24.0,), (48.0,), (96.0,), (160.0,), (224.0,)))


def small_detector(head=RetinaNetHead, keep_empty=False, **options) -> DenseDetector:
    """A ResNet-18 of width 16 with all parts of a one-stage detector."""
    anchors = {"anchor_generator": SQUARES} if head is RetinaNetHead else {}
    return DenseDetector(
        3,
        backbone=partial(ResNet, depth=18, width=16, norm="BN", freeze_at=0, out_features=("res3", "res4", "res5")),
        neck=partial(FPN, out_channels=16, top_block=LastLevelP6P7),
        head=partial(head, num_conv=1, **anchors, **options),
        keep_empty=keep_empty,
    )


def cells(size=64):
    """The cells of an image: anchors of three levels."""
    maps = [torch.zeros(1, 1, size // s.stride, size // s.stride) for s in SHAPES.values()]
    return CellAnchorGenerator([*SHAPES.values()])(maps, (size, size))


def objects(*boxes, crowds=None, size=64):
    info = ImageInfo(crowds=None if crowds is None else Boxes(crowds))
    return Instances((size, size), info=info, boxes=Boxes(boxes), classes=torch.arange(len(boxes)))


@pytest.mark.parametrize("head", [RetinaNetHead, FCOSHead])
def test_training_gives_losses_and_evaluation_boxes_in_original_pixels(head):
    model = small_detector(head, score_thresh=0.0, max_detections=20)
    losses = model([sample(), sample(seed=1)])
    assert isinstance(losses, Losses)
    assert set(losses.terms) == set(head.terms) == set(losses.normalisers)
    losses.total().backward()
    assert all(p.grad is not None for p in model.parameters())
    image = sample()
    same = dataclasses.replace(image, original_size=(64, 96), target=None)
    large, small = (p.instances for p in model.eval()([dataclasses.replace(same, original_size=(128, 192)), same]))
    assert (large.image_size, small.image_size) == ((128, 192), (64, 96))
    torch.testing.assert_close(large.boxes.tensor, small.boxes.tensor * 2)
    assert len(large)
    assert (large.boxes.tensor == large.boxes.clip((128, 192)).tensor).all()


@pytest.mark.parametrize("head", [RetinaNetHead, FCOSHead])
def test_batching_changes_nothing(head):
    model = small_detector(head, score_thresh=0.0).eval()
    a, b = sample(64, 96, seed=5), sample(64, 96, seed=6)
    for alone, together in zip([model([a])[0], model([b])[0]], model([a, b])):
        torch.testing.assert_close(alone.instances.boxes.tensor, together.instances.boxes.tensor, atol=1e-3, rtol=0)
        torch.testing.assert_close(alone.instances.scores, together.instances.scores)


@pytest.mark.parametrize("loss", [FocalClassLoss, SigmoidClassLoss, SoftmaxClassLoss, SeesawClassLoss])
def test_a_head_begins_with_its_prior(loss):
    detector = small_detector(prior=0.05, score_thresh=0.0, class_loss=loss)
    bias = detector.head.cls_score.bias.unflatten(0, (detector.head.num_anchors, -1))
    scores = detector.head.scores({"logits": bias})
    assert scores.shape == (3, 3)
    alone = loss in (FocalClassLoss, SigmoidClassLoss)
    torch.testing.assert_close(scores if alone else scores.sum(dim=1), torch.full((3, 3) if alone else (3,), 0.05))
    assert detector.eval()([sample()])[0].instances.scores.max() < 0.06


def test_a_class_loss_draws_once_for_the_whole_batch(monkeypatch):
    seen, chosen = [], FederatedClassLoss.chosen

    def counted(self, classes):
        seen.append(classes)
        return chosen(self, classes)

    monkeypatch.setattr(FederatedClassLoss, "chosen", counted)
    losses = small_detector(class_loss=FederatedClassLoss)([sample(), sample(seed=1)])
    assert len(seen) == 1
    assert torch.isfinite(losses.total())


def test_levels_that_do_not_fit_together_are_named():
    with pytest.raises(ValueError, match="head: its head is shared by all levels"):
        RetinaNetHead({**SHAPES, "p6": ShapeSpec(8, 64)}, 3, anchor_generator=CellAnchorGenerator)
    with pytest.raises(ValueError, match=r"head\.in_features: no feature named p9"):
        RetinaNetHead(SHAPES, 3, anchor_generator=CellAnchorGenerator, in_features=("p9",))


def test_the_best_of_all_locations_and_classes_of_a_level_are_candidates():
    head = RetinaNetHead(SHAPES, 3, anchor_generator=CellAnchorGenerator, num_conv=0, pre_nms_topk=2, score_thresh=0.0)
    anchors = cells()
    levels = {
        "logits": [torch.full((1, len(a), 3), -5.0) for a in anchors],
        "deltas": [torch.zeros(1, len(a), 4) for a in anchors],
    }
    levels["logits"][0][0, 7] = torch.tensor([1.0, 3.0, 2.0])
    head.predictions = lambda images, features: (anchors, levels)
    images = type("Images", (), {"image_sizes": [(64, 64)], "info": lambda self, i: ImageInfo()})()
    (found,) = head.predict(images, {})
    assert len(found) == 6, "two of each of three levels"
    assert found.classes[:2].tolist() == [1, 2]
    assert torch.equal(found.boxes.tensor[:2], anchors[0].tensor[[7, 7]])


def test_the_smallest_object_around_a_point_is_learned_at_its_level():
    anchors = cells(128)
    large, small, wide = [4.0, 4, 64, 64], [24.0, 24, 40, 40], [0.0, 64, 128, 128]
    rows, labels = CentreAssigner()(anchors, objects(large, small, wide))
    finest, middle, coarsest = zip(rows.split([*map(len, anchors)]), labels.split([*map(len, anchors)]))
    at = (28 // 8) * 16 + 28 // 8  # a cell in the middle of both
    assert (finest[0][at], finest[1][at]) == (1, 1)
    assert set(finest[0][finest[1] == 1].tolist()) == {0, 1}
    assert set(middle[0][middle[1] == 1].tolist()) == {2}, "64 to 128 pixels from its far side"
    assert not coarsest[1].any()
    points = (anchors[0].tensor[:, :2] + anchors[0].tensor[:, 2:]) / 2
    chosen = points[(finest[1] == 1) & (finest[0] == 0)]
    assert ((chosen - 34).abs() < 1.5 * 8).all(), "near its centre"
    outside = CentreAssigner(radius=100.0)(anchors, objects(small))[1][: len(points)] == 1
    inside = ((points > 24) & (points < 40)).all(1)
    assert torch.equal(outside, inside)


def test_objects_of_nearly_the_same_area_are_chosen_as_torchvision_does():
    anchors, generator = cells(128), torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=generator) * 90
    boxes = torch.cat([corners, corners + 20 + torch.rand(60, 2, generator=generator) * 0.5], 1)  # 400 to 420 pixels
    rows, labels = CentreAssigner()(anchors, objects(*boxes.tolist(), size=128))
    head = types.SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matched: matched)
    reference = types.SimpleNamespace(center_sampling_radius=1.5, head=head)
    found = Boxes.cat(anchors).tensor.as_subclass(torch.Tensor)
    (wanted,) = FCOS.compute_loss(reference, [{"boxes": boxes}], {}, [found], [*map(len, anchors)])
    assert (wanted >= 0).sum() > 50
    assert torch.equal(torch.where(labels == 1, rows, -1), wanted)


@pytest.mark.parametrize(("config", "option"), [("retinanet", "assigner"), ("fcos", "anchor_generator")])
def test_anchors_that_centres_say_nothing_of_are_refused(config, option):
    name = {"assigner": "CentreAssigner", "anchor_generator": "GridAnchorGenerator"}[option]
    with pytest.raises(ConfigError, match=r"^model\.head\.anchor_generator: .*CellAnchorGenerator"):
        load_experiment(f"quick_start/{config}_shapes", [f"model.head.{option}={{name: {name}}}"])
    sizes = [[8 * 2**level] for level in range(5)]
    squares = f"{{name: GridAnchorGenerator, octave_scales: 1, aspect_ratios: [1.0], sizes: {sizes}}}"
    options = ["model.head.assigner={name: CentreAssigner}", f"model.head.anchor_generator={squares}"]
    assert load_experiment(f"quick_start/{config}_shapes", options)


def test_many_objects_are_compared_in_parts(monkeypatch):
    anchors, boxes = cells(128), torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 90
    target = objects(*torch.cat([boxes, boxes + 30], 1).tolist(), size=128)
    whole = CentreAssigner()(anchors, target)
    monkeypatch.setattr("detkit.layers.box_ops.PAIRS_AT_ONCE", 999)
    parts = CentreAssigner()(anchors, target)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts))


def test_crowds_are_ignored_where_that_is_asked_for():
    target, anchors = objects([0.0, 0, 16, 16], crowds=[[32.0, 32, 64, 64]]), cells()
    points = (Boxes.cat(anchors).tensor[:, :2] + Boxes.cat(anchors).tensor[:, 2:]) / 2
    inside = ((points > 32) & (points < 64)).all(1)
    assert not (CentreAssigner()(anchors, target)[1] == -1).any()
    assert torch.equal(CentreAssigner(ignore_crowds=True)(anchors, target)[1] == -1, inside)
    by_iou = IoUAssigner(matcher=Matcher(0.4, 0.5, crowd_thresh=0.05))(anchors, target)[1]
    assert (by_iou == -1).any()


def test_sides_are_measured_from_the_centre_in_units_of_the_reference():
    reference, box = torch.tensor([[16.0, 8, 24, 16]]), torch.tensor([[12.0, 8, 60, 14]])
    deltas = SideBoxCoder().encode(reference, box)
    assert deltas.tolist() == [[1.0, 0.5, 5.0, 0.25]]
    assert torch.equal(SideBoxCoder().decode(reference, deltas), box)
    assert torch.equal(SideBoxCoder().decode(reference, -deltas), torch.tensor([[20.0, 12, 20, 12]]))


def test_centreness_is_1_in_the_centre_and_0_at_a_side():
    values = centreness(torch.tensor([[5.0, 3, 5, 3], [0.0, 3, 5, 3], [1.0, 4, 4, 1], [0.0, 0, 0, 0], [-1.0, 2, 3, 2]]))
    assert values.tolist() == pytest.approx([1, 0, 0.25, 0, 0])


def test_three_scales_an_octave():
    shapes = [ShapeSpec(4, 8), ShapeSpec(4, 16)]
    generator = GridAnchorGenerator(shapes, sizes=((32.0,), (64.0,)), octave_scales=3, aspect_ratios=(1.0,))
    assert generator.num_anchors == [3, 3]
    sides = torch.cat([a.tensor[:3, 2] - a.tensor[:3, 0] for a in generator([torch.zeros(1, 4, 1, 1)] * 2, (16, 16))])
    torch.testing.assert_close(sides, 32 * 2 ** (torch.arange(6) / 3))


def test_an_ignored_anchor_and_an_unlabelled_class_learn_nothing():
    loss, logits = FocalClassLoss(3), torch.zeros(2, 3, requires_grad=True)
    active = loss.only_active(logits, torch.tensor([True, False, True]))
    loss(active, torch.tensor([0, -1]))[""].backward()
    assert (logits.grad != 0).tolist() == [[True, False, True], [False, False, False]]


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_without_focus_the_focal_loss_is_weighted_cross_entropy(alpha):
    logits, classes = torch.randn(5, 3), torch.tensor([0, 2, 3, 3, 1])
    target = torch.nn.functional.one_hot(classes, 4)[:, :3].float()
    weight = torch.where(target == 1, alpha, 1 - alpha)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    torch.testing.assert_close(FocalClassLoss(3, alpha=alpha, gamma=0.0)(logits, classes)[""], expected)
    assert FocalClassLoss(3, alpha=alpha)(logits, classes)[""] < expected


def test_the_moving_average_follows_the_training_alone_and_is_saved():
    normaliser = MovingNormaliser(start=100.0)
    divisors, entry = normaliser(torch.tensor([200, 17]))
    assert divisors.tolist() == pytest.approx([111.7, 111.7])
    with keep_running_statistics(normaliser):
        aside = normaliser(torch.tensor([50]))[1]
    assert aside == pytest.approx(0.9 * 111.7 + 5)
    assert normaliser.state_dict()["average"] == pytest.approx(111.7)
    normaliser.eval()(torch.tensor([50]))
    assert normaliser.average.item() == pytest.approx(entry.item())
    assert normaliser.train()(torch.tensor([0]))[1] == pytest.approx(0.9 * 111.7 + 0.1), "at least one"


def test_normalisers_differ_in_what_they_count():
    numbers = torch.tensor([4, 0, 8])
    assert BatchNormaliser()(numbers)[0].tolist() == [12, 12, 12]
    assert ImageNormaliser()(numbers)[0].tolist() == [12, 3, 24], "the number on the image, and the mean over three"


def test_anchors_of_padding_and_images_of_unequal_sizes_give_finite_losses():
    for head in (RetinaNetHead, FCOSHead):
        losses = small_detector(head)([sample(50, 70, num=0), sample(64, 33, seed=2)])
        assert torch.isfinite(losses.total())
        losses.total().backward()


def test_boxes_beside_the_image_are_dropped_unless_they_are_to_stay():
    options = {"score_thresh": 0.0, "nms_thresh": 1.0, "max_detections": 100_000}
    number = [
        len(small_detector(keep_empty=keep, clip_boxes=True, **options).eval()([sample(33, 33)])[0].instances)
        for keep in (False, True)
    ]
    assert number[0] < number[1]


def test_the_classes_of_a_file_are_taken_by_name_for_each_anchor():
    ours, theirs = small_detector(), small_detector()
    ours.class_names = ("a", "b", "c")
    before, given = ours.head.cls_score.weight.clone(), theirs.head.cls_score.weight
    report = load_weights(ours, {"model": theirs.state_dict(), "class_names": ["c", "x", "a"]})
    after, rows = ours.head.cls_score.weight, (9 // 3, 3)
    before, given, after = (w.unflatten(0, rows) for w in (before, given, after))
    assert torch.equal(after[:, 0], given[:, 2])
    assert torch.equal(after[:, 2], given[:, 0])
    assert torch.equal(after[:, 1], before[:, 1])
    assert report.notes["head.cls_score.weight"] == "2 of 3 classes by name"


def test_convolutions_of_the_head_are_compiled():
    model = small_detector()
    assert model.head.cls_convs in [*static_parts(model)]
