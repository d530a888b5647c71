"""PointRend: what the mask head learns at its points, and how a mask becomes finer."""

from functools import partial

import pytest
import torch
from small import sample, small_model

from detkit.experiment import load_experiment
from detkit.layers import ShapeSpec
from detkit.modeling.points import PointSampling, grid_points
from detkit.modeling.poolers import PointPooler
from detkit.modeling.roi_heads import PointRendMaskHead, RefinedBoxRoIHeads, Res5RoIHeads, Subdivision
from detkit.modeling.roi_heads.pointrend import CoarseMaskHead, PointHead
from detkit.registry import ConfigError
from detkit.structures import BitMasks, Boxes, Instances

SHAPES = {"p2": ShapeSpec(6, 4), "p3": ShapeSpec(6, 8)}


def mask_head(**options):
    torch.manual_seed(0)
    coarse = partial(CoarseMaskHead, output_size=4, conv_dim=8, fc_dims=(16,))
    parts = {
        "pooler": partial(PointPooler, output_size=8),
        "coarse_head": coarse,
        "point_head": partial(PointHead, fc_dims=(12,)),
        "subdivision": Subdivision(4, 2, 10),
    }
    return PointRendMaskHead(SHAPES, 3, **{**parts, **options})


def features(size=64):
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randn(2, 6, size // s.stride, size // s.stride, generator=generator) for n, s in SHAPES.items()}


def instances(*boxes, classes=None, masks=None):
    rows = torch.zeros(len(boxes), dtype=torch.long) if classes is None else torch.tensor(classes)
    found = Instances((64, 64), boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)), classes=rows)
    return found if masks is None else found.with_fields(gt_masks=BitMasks(masks))


def answers(head, function):
    """Makes the point head answer ``function`` of the points' place in the image, for class 1 alone."""
    head.fine.at = lambda features, boxes, points: points.transpose(1, 2)
    head.point_head.forward = lambda fine, coarse: torch.stack([fine[:, 0] * 0 - 9, function(fine), fine[:, 0] * 0], 1)


def test_a_mask_is_decided_where_it_is_uncertain_until_its_outline_is_as_fine_as_its_last_grid():
    head = mask_head(subdivision=Subdivision(8, 3, 400))
    answers(head, lambda fine: 0.7 * fine[:, 0] + fine[:, 1] - 0.9)  # a slanted edge
    (found, _) = head.predict(features(), [instances([4.0, 4, 40, 40], classes=[1]), instances()])
    probs = found.mask_probs[0]
    assert probs.shape == (64, 64)
    places = grid_points(1, 64, torch.device("cpu"))[0].unflatten(0, (64, 64))
    wanted = 0.7 * places[..., 0] + places[..., 1] > 0.9
    assert torch.equal(probs > 0.5, wanted)


def test_each_step_decides_only_the_least_certain_cells():
    head, asked = mask_head(subdivision=Subdivision(8, 2, 30)), []
    answers(head, lambda fine: 40 * (fine[:, 0] - 0.5))
    answer = head.at_points
    head.at_points = lambda f, b, c, points, classes: asked.append(points) or answer(f, b, c, points, classes)
    head.predict(features(), [instances([4.0, 4, 40, 40], classes=[1]), instances()])
    assert [points.shape[1] for points in asked] == [64, 30, 30]
    assert (asked[1][..., 0] - 0.5).abs().max() < 0.1


def test_the_point_loss_is_the_cross_entropy_of_the_true_class_at_the_sampled_points():
    head = mask_head()
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:, :, :32] = True
    head.point_sampling = lambda logits: torch.tensor([[[0.25, 0.5], [0.75, 0.5]]])
    answers(head, lambda fine: 0 * fine[:, 0] + 2.0)
    losses = head.loss(features(), [instances([0.0, 0, 64, 64], classes=[1], masks=masks), instances()])
    sigmoid = torch.tensor(2.0).sigmoid()
    torch.testing.assert_close(losses.terms["loss_mask_point"], -(sigmoid.log() + (1 - sigmoid).log()) / 2)
    assert losses.metrics["mask_head/point_accuracy"] == 0.5
    assert losses.normalisers == {"loss_mask": 1, "loss_mask_point": 1}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_agnostic": True},
        {"point_head": partial(PointHead, class_agnostic=True)},
        {"point_head": partial(PointHead, coarse_each_layer=False)},
    ],
)
def test_both_masks_learn_and_nothing_is_left_out(options):
    head = mask_head(in_features=("p2", "p3"), **options)
    masks = torch.rand(2, 64, 64) > 0.5
    full = instances([4.0, 4, 40, 40], [0, 10, 64, 70], classes=[0, 2], masks=masks)
    maps = {name: value.requires_grad_() for name, value in features().items()}
    losses = head.loss(maps, [full, instances()])
    losses.total().backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())
    assert all(value.grad.abs().sum() > 0 for value in maps.values())
    head.zero_grad()
    nothing = head.loss(maps, [instances(), instances()])
    nothing.total().backward()
    assert nothing.total() == 0
    assert all(p.grad is not None for p in head.parameters())


def test_coarse_logits_are_seen_by_the_first_layer_or_by_all():
    fine, coarse = torch.randn(2, 6, 5), torch.randn(2, 3, 5)
    for each_layer, inputs in ((True, [9, 7, 7]), (False, [9, 4, 4])):
        head = PointHead(6, 3, fc_dims=(4, 4), coarse_each_layer=each_layer)
        assert [layer.in_channels for layer in (*head.fcs, head.predictor)] == inputs
        assert head(fine, coarse).shape == (2, 3, 5)
    assert PointHead(6, 3, class_agnostic=True)(fine, coarse).shape == (2, 1, 5)


def test_without_detections_there_are_no_masks():
    assert [len(found.mask_probs) for found in mask_head().predict(features(), [instances(), instances()])] == [0, 0]


def test_in_mixed_precision_points_lie_where_they_do_in_full():
    head, found = mask_head(), [instances([4.0, 4, 40, 40], classes=[1]), instances([0.0, 10, 64, 70])]
    with torch.no_grad():
        full = head.predict(features(), found)
        with torch.autocast("cpu", torch.bfloat16):
            half = head.predict({n: f.bfloat16() for n, f in features().items()}, found)
    for a, b in zip(full, half):
        assert b.mask_probs.dtype == torch.float32
        assert (a.mask_probs - b.mask_probs).abs().max() < 0.02


@pytest.mark.parametrize("each_layer", [True, False])
@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize("fc_dims", [(16, 16), ()])
def test_rows_and_columns_of_classes_are_declared_for_every_tensor_that_has_them(each_layer, agnostic, fc_dims):
    points = partial(PointHead, coarse_each_layer=each_layer, class_agnostic=agnostic, fc_dims=fc_dims)
    options = {"coarse_head": partial(CoarseMaskHead, fc_dims=(16,)), "point_head": points}
    small, large = (dict(PointRendMaskHead(SHAPES, k, **options).named_parameters()) for k in (3, 5))
    head = PointRendMaskHead(SHAPES, 3, **options)
    assert {n for n, p in small.items() if p.shape != large[n].shape} == set(head.class_rows)
    for name, layout in head.class_rows.items():
        assert layout.shape(5, tuple(small[name].shape)) == tuple(large[name].shape)


def test_other_heads_learn_from_the_boxes_that_the_box_head_has_moved():
    model = small_model(heads=RefinedBoxRoIHeads)
    head, seen = model.roi_heads.box_head, []
    torch.nn.init.zeros_(head.bbox_pred.weight)
    head.bbox_pred.bias.data = torch.tensor([30.0, 0, 0, 0] * 3)  # three widths to the right
    loss = model.roi_heads.mask_head.loss
    model.roi_heads.mask_head.loss = lambda features, proposals: seen.extend(proposals) or loss(features, proposals)
    one = sample()
    losses = model.loss([one])
    losses.total().backward()
    (foreground,) = seen
    assert len(foreground)
    assert foreground.boxes.tensor[:, 2].max() > 96, "not cut to the image"
    moved = foreground.boxes.tensor[:, 0] - 3 * (foreground.boxes.tensor[:, 2] - foreground.boxes.tensor[:, 0])
    overlap = torch.minimum(moved + 1e9, one.target.boxes.tensor[foreground.gt_index, 2]) - moved
    assert (overlap > 0).all(), "before, it overlapped its object"


def test_heads_that_pool_for_their_heads_refuse_points():
    with pytest.raises(ValueError, match="'res5' is pooled already"):
        Res5RoIHeads(
            {"res4": ShapeSpec(16, 16)},
            3,
            box_head=lambda *_: torch.nn.Identity(),
            pooler=partial(PointPooler, output_size=14),
            mask_head=partial(PointRendMaskHead, pooler=partial(PointPooler, output_size=14)),
        )


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("{name: PointRendMaskHead}", "mask_head: PointRendMaskHead looks at maps"),
        ("{pooler: {name: RoIAlignPooler, output_size: 14}}", "mask_head: RoIAlignPooler looks at .*RegionFeatures"),
    ],
)
def test_pooled_regions_are_no_maps_which_is_said_as_the_config_is_loaded(head, words):
    with pytest.raises(ConfigError, match=rf"^model\.roi_heads\.{words}"):
        load_experiment("coco/mask_rcnn_R_50_C4_1x", [f"model.roi_heads.mask_head={head}"])


def test_points_sampled_in_training_follow_torchs_seed():
    head = mask_head(point_sampling=PointSampling(20))
    full = instances([4.0, 4, 40, 40], classes=[1], masks=torch.rand(1, 64, 64) > 0.5)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(head.loss(features(), [full, instances()]).terms["loss_mask_point"].item())
    assert values[0] == values[1] != values[2]
