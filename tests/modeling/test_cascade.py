"""Cascade R-CNN: what each stage starts from, what it learns from, and how the stages make detections together."""

import dataclasses
from functools import partial

import pytest
import torch
from small import sample, small_model

from detkit.comparisons.stages import Stages
from detkit.config import Recipe
from detkit.layers import ShapeSpec
from detkit.modeling.box_coder import DeltaBoxCoder
from detkit.modeling.interfaces import BoxHead
from detkit.modeling.matcher import Matcher
from detkit.modeling.poolers import RoIAlignPooler
from detkit.modeling.roi_heads import CascadeRoIHeads, CascadeStage, FastRCNNConvFCHead
from detkit.structures import Boxes, Instances

SHAPES = {f"p{i}": ShapeSpec(8, 2**i) for i in (2, 3, 4, 5)}


def cascade(class_agnostic=True, **options):
    torch.manual_seed(0)
    pooler = partial(RoIAlignPooler, output_size=3, sampling_ratio=1)
    box_head = partial(FastRCNNConvFCHead, pooler=pooler, fc_dims=(8,), class_agnostic=class_agnostic)
    return CascadeRoIHeads(SHAPES, 3, box_head=box_head, **options)


def features(requires_grad=False):
    generator = torch.Generator().manual_seed(1)
    sizes = {name: (1, 8, 64 // spec.stride, 64 // spec.stride) for name, spec in SHAPES.items()}
    return {n: torch.randn(s, generator=generator).requires_grad_(requires_grad) for n, s in sizes.items()}


def target(boxes=((4.0, 4, 30, 40), (20, 10, 60, 50))):
    return Instances((64, 64), boxes=Boxes(boxes), classes=torch.arange(len(boxes)))


def moves(heads, deltas):
    """Makes each stage answer the same deltas, whatever it sees."""
    for head, values in zip(heads.box_head, deltas):
        torch.nn.init.zeros_(head.bbox_pred.weight)
        head.bbox_pred.bias.data = torch.tensor(values)


def test_each_later_stage_has_a_box_coder_and_an_iou_of_its_own():
    later = (CascadeStage(0.6, partial(DeltaBoxCoder, weights=(20.0, 20.0, 10.0, 10.0))), CascadeStage(0.75))
    heads = cascade(later_stages=later, matcher=Matcher(0.4, 0.5, crowd_thresh=0.5))
    assert [head.box_coder.weights[0] for head in heads.box_head] == [10, 20, 10]
    assert heads.matcher == Matcher(0.4, 0.5, crowd_thresh=0.5)
    assert heads.later_matchers == [Matcher(iou, iou, crowd_thresh=0.5) for iou in (0.6, 0.75)]
    assert [head.box_coder.weights[0] for head in cascade().box_head] == [10, 20, 30]
    assert len({id(p) for p in heads.parameters()}) == 3 * len(list(heads.box_head[0].parameters()))


def test_a_stage_learns_from_the_boxes_of_the_one_before_and_from_a_higher_iou():
    heads, seen = cascade(append_ground_truth=False), []
    moves(heads, [(0.0, 0.0, 0.0, 0.0), (4.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)])  # the second shifts by 4 / 20
    for head in heads.box_head:
        losses = head.losses
        head.losses = lambda p, regions, losses=losses: seen.extend(regions) or losses(p, regions)
    boxes = Boxes([[0.0, 0, 10, 10], [1, 0, 11, 10], [4, 0, 14, 10]])  # the first is the object; IoU 0.82 and 0.43
    proposals = [Instances((64, 64), boxes=boxes)]
    losses = heads.loss(features(), proposals, [target([(0.0, 0, 10, 10)])])
    by_place = [stage[stage.boxes.tensor[:, 0].argsort()] for stage in seen]
    assert by_place[0].classes.tolist() == by_place[1].classes.tolist() == [0, 0, 3]
    assert by_place[2].boxes.tensor[:, 0].tolist() == pytest.approx([2, 3, 6])
    assert by_place[2].classes.tolist() == [3, 3, 3]  # IoU 0.67, 0.54: enough for the second stage's 0.6 at most
    assert losses.normalisers["loss_cls_stage2"] == 3
    assert losses.terms["loss_box_reg_stage2"] == 0


def test_a_box_that_a_stage_moves_out_of_the_image_is_ignored_from_then_on():
    heads = cascade(append_ground_truth=False)
    moves(heads, [(-100.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)])  # ten widths to the left
    proposals = [Instances((64, 64), boxes=target().boxes)]
    losses = heads.loss(features(), proposals, [target()])
    assert [losses.normalisers[f"loss_cls_stage{i}"].item() for i in range(3)] == [2, 0, 0]
    assert losses.terms["loss_cls_stage1"] == 0
    losses.total().backward()


def test_the_gradient_of_the_features_is_divided_by_the_stages_and_that_of_the_heads_is_not():
    heads, proposals = cascade(), [Instances((64, 64), boxes=target().boxes)]
    maps = features(requires_grad=True)
    heads.loss(maps, proposals, [target()]).total().backward()
    found = [maps["p2"].grad.clone(), heads.box_head[1].fcs[0].weight.grad.clone()]
    heads.zero_grad()
    maps, regions, undivided = features(requires_grad=True), heads.label(proposals, [target()]), 0.0
    regions = heads.sample(regions)
    for number, head in enumerate(heads.box_head):
        predictions = head.predictions(maps, [r.boxes for r in regions])
        undivided = undivided + head.losses(predictions, regions).total()
        if number < 2:
            boxes = head.boxes(predictions, regions)
            regions = [heads.later_matchers[number].label(boxes[0], target(), 3)]
    undivided.backward()
    assert found[0].abs().sum() > 0
    torch.testing.assert_close(found[0], maps["p2"].grad / 3)
    torch.testing.assert_close(found[1], heads.box_head[1].fcs[0].weight.grad)


@pytest.mark.parametrize("class_agnostic", [True, False])
def test_detections_have_the_last_stages_boxes_and_the_mean_of_all_scores(class_agnostic):
    heads, probs = (
        cascade(class_agnostic),
        torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.5, 0.2, 0.2, 0.1], [0.3] * 3 + [0.1]]),
    )
    moves(
        heads, [[x, 0.0, 0.0, 0.0] * (1 if class_agnostic else 3) for x in (1.0, 2.0, 0.0)]
    )  # a tenth of the width each
    for head, row in zip(heads.box_head, probs):
        torch.nn.init.zeros_(head.cls_score.weight)
        head.cls_score.bias.data = row.log()
        head.detection = dataclasses.replace(head.detection, score_thresh=0.45)
    (found,) = heads.eval().predict(features(), [Instances((64, 64), boxes=Boxes([[10.0, 10, 20, 20]]))])
    torch.testing.assert_close(found.boxes.tensor, torch.tensor([[12.0, 10, 22, 20]]))
    torch.testing.assert_close(found.scores, torch.tensor([0.5]))
    assert found.classes.tolist() == [0]


def test_a_cascade_of_one_stage_is_the_standard_heads():
    models = [small_model(heads=partial(CascadeRoIHeads, later_stages=())), small_model()]
    state = models[0].state_dict()
    models[1].load_state_dict({name.replace("box_head.0.", "box_head."): value for name, value in state.items()})
    batch, terms = [sample(), sample(num=0, seed=1)], []
    for model in models:
        torch.manual_seed(0)
        terms.append(list(model.loss(batch).terms.values()))
    torch.testing.assert_close(*terms)
    first, second = (model.eval()(batch)[0].instances for model in models)
    torch.testing.assert_close(first.scores, second.scores)
    torch.testing.assert_close(first.boxes.tensor, second.boxes.tensor)


def test_images_without_objects_or_without_proposals_train():
    model = small_model(heads=CascadeRoIHeads)
    losses = model.loss([sample(num=0), sample(num=0, seed=1)])
    losses.total().backward()
    assert all(torch.isfinite(value) for value in losses.terms.values())
    assert all(p.grad is not None for p in model.roi_heads.parameters())
    heads = cascade()
    nothing = Instances((64, 64), boxes=Boxes(torch.zeros(0, 4)))
    assert torch.isfinite(
        heads.loss(features(), [nothing], [nothing.with_fields(classes=torch.zeros(0).long())]).total()
    )
    assert len(heads.predict(features(), [nothing])[0]) == 0


def test_the_stages_of_a_cascade_can_be_compared_with_a_references():
    model, one = small_model(heads=CascadeRoIHeads, score_thresh=0.0, max_detections=5), sample()
    stages = Stages(model)
    images = stages.images([one])
    maps = stages.features(images)
    found = stages.regions(maps, stages.proposals(images, maps))
    assert len(found.detections[0]) == 5
    assert len(found.logits) == len(found.deltas)
    (masks,) = stages.masks(maps, [i.without("mask_probs") for i in found.detections])
    torch.testing.assert_close(masks.mask_probs, found.detections[0].mask_probs)


def test_a_box_head_without_a_box_coder_is_refused_before_building():
    class Head(BoxHead):
        def __init__(self, input_shape, num_classes, *, size: int = 3):
            super().__init__(input_shape, num_classes)

    coded = (CascadeStage(0.6, Recipe(DeltaBoxCoder)),)
    with pytest.raises(ValueError, match=r"later_stages: Head has no option 'box_coder'; write \[\{iou: 0.6"):
        CascadeRoIHeads.check_options({"box_head": Recipe(Head), "later_stages": coded})
    CascadeRoIHeads.check_options({"box_head": Recipe(Head), "later_stages": (CascadeStage(0.6),)})
