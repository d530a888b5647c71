"""RoI heads: labelling and sampling, the verbs of a box head, and the rules of the references."""

import dataclasses

import pytest
import torch
from small import sample, small_model

from detkit.modeling.roi_heads import BoxPredictions, Detection, MatterportBoxHead
from detkit.structures import Boxes, ImageInfo, Instances

PROPOSALS = Instances((64, 64), boxes=Boxes([[0.0, 0, 9, 9], [20, 20, 40, 40], [30, 5, 40, 20]]))
PROBS = torch.tensor([[0.1, 0.5, 0.2, 0.2], [0.3, 0.2, 0.1, 0.4], [0.6, 0.2, 0.1, 0.1]])


def predictions_of(head, boxes, probs) -> BoxPredictions:
    """Predictions of the same box for each class."""
    deltas = head.box_coder.encode(PROPOSALS.boxes.tensor, boxes)
    return BoxPredictions(probs.log(), deltas.repeat(1, 3))


def test_sampling_of_regions_labels_by_overlap():
    heads = small_model().roi_heads
    target = sample(num=2).target
    far = Boxes([[0.0, 0, 3, 3]])
    proposals = Instances(target.image_size, boxes=Boxes.cat([target.boxes, far]), objectness=torch.zeros(3))
    (sampled,) = heads.sample(heads.label([proposals], [target]))
    assert len(sampled) == 5  # ground truth is appended
    foreground = sampled[sampled.classes < 3]
    assert len(foreground) == 4
    torch.testing.assert_close(foreground.gt_boxes.tensor, foreground.boxes.tensor)
    torch.testing.assert_close(foreground.classes, target.classes[foreground.gt_index])
    heads.append_ground_truth = False
    assert len(heads.label([proposals], [target])[0]) == 3


def test_foreground_has_every_field_of_its_object():
    heads = small_model().roi_heads
    target = sample(num=3).target.with_fields(angle=torch.tensor([0.1, 0.2, 0.3]))
    proposals = Instances(target.image_size, boxes=target.boxes)
    (sampled,) = heads.sample(heads.label([proposals], [target]))
    (found,) = heads.foreground([sampled], [target])
    assert len(found) == 6
    assert torch.equal(found.gt_angle, target.angle[found.gt_index])
    assert torch.equal(found.gt_classes, found.classes)
    assert len(found.gt_masks) == 6


def test_a_head_that_mixes_rows_sees_samples_alone():
    """Nothing but samples reaches a head: there are no padding rows."""
    model = small_model()
    seen, losses = [], model.roi_heads.box_head.losses
    model.roi_heads.box_head.losses = lambda predictions, proposals: (
        seen.extend(proposals) or losses(predictions, proposals)
    )
    model.loss([sample(num=1), sample(num=3, seed=1), sample(num=0, seed=2)]).total().backward()
    assert len(seen) == 3
    assert all((image.classes >= 0).all() for image in seen)


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_loss_and_predict_are_made_of_the_verbs(class_agnostic):
    model = small_model(score_thresh=0.0, class_agnostic=class_agnostic).eval()
    one = sample()
    features = model.features(model.preprocess([one]))
    head = model.roi_heads.box_head
    proposals = [Instances((64, 96), boxes=one.target.boxes, classes=one.target.classes, gt_boxes=one.target.boxes)]
    predictions = head.predictions(features, [p.boxes for p in proposals])
    loss, losses = head.loss(features, proposals), head.losses(predictions, proposals)
    assert all(torch.equal(loss.terms[name], losses.terms[name]) for name in ("loss_cls", "loss_box_reg"))
    (predicted,), (detected,) = head.predict(features, proposals), head.detections(predictions, proposals)
    assert torch.equal(predicted.boxes.tensor, detected.boxes.tensor)
    (refined,) = head.boxes(predictions, proposals)
    assert len(refined) == len(one.target)
    assert not refined.requires_grad
    rows = (detected.boxes.tensor[:, None] == refined.tensor).all(dim=2).any(dim=0)
    best = detected.scores.max() == predictions.logits.softmax(1)[:, :-1].amax(1)
    assert rows[best].all(), "the refined box of a proposal is that of its best detection"


def test_refined_boxes_are_cut_to_the_valid_region():
    head = small_model().roi_heads.box_head
    boxes = torch.tensor([[-9.0, 0, 20, 99], [2, 2, 8, 8], [40, 40, 41, 41]])
    (refined,) = head.boxes(predictions_of(head, boxes, PROBS), [PROPOSALS])
    torch.testing.assert_close(refined.tensor, Boxes(boxes).clip((64, 64)).tensor)


def test_every_class_above_the_threshold_is_a_detection_and_small_boxes_may_be_dropped():
    head = small_model(score_thresh=0.05).roi_heads.box_head
    boxes = torch.tensor([[0.4, 0.6, 20.2, 20.7], [30, 30, 50, 50], [40, 5, 40.3, 9]])
    (found,) = head.detections(predictions_of(head, boxes, PROBS), [PROPOSALS])
    assert len(found) == 9
    head.detection = dataclasses.replace(head.detection, min_size=1.0)
    (found,) = head.detections(predictions_of(head, boxes, PROBS), [PROPOSALS])
    assert len(found) == 6


def test_detections_beyond_the_limit_are_counted():
    head = small_model(score_thresh=0.05).roi_heads.box_head
    boxes = torch.tensor([[0.4, 0.6, 20.2, 20.7], [30, 30, 50, 50], [40, 5, 60, 9]])
    for most, cut in ((100, 0), (9, 0), (2, 7)):
        head.detection = dataclasses.replace(head.detection, max_detections=most)
        (found,) = head.detections(predictions_of(head, boxes, PROBS), [PROPOSALS])
        assert (len(found), found.info.num_cut) == (min(9, most), cut)


def test_matterport_gives_a_region_its_likeliest_class_alone_and_rounds_boxes():
    head = small_model(head=MatterportBoxHead, score_thresh=0.05).roi_heads.box_head
    boxes = torch.tensor([[0.4, 0.6, 20.2, 20.7], [30, 30, 50, 50], [40, 5, 40.3, 9]])
    (found,) = head.detections(predictions_of(head, boxes, PROBS), [PROPOSALS])
    assert found.classes.tolist() == [0, 1]  # the second region is background
    assert found.boxes.tolist() == [[40, 5, 40, 9], [0, 1, 20, 21]]


def test_predictions_that_are_no_numbers_give_no_detection():
    head = small_model(score_thresh=0.0).roi_heads.box_head
    predictions = predictions_of(head, PROPOSALS.boxes.tensor, PROBS)
    predictions.deltas[0, 0], predictions.logits[1, 2] = float("nan"), float("nan")
    (found,) = head.detections(predictions, [PROPOSALS])
    assert len(found) == 3
    assert (found.boxes.tensor - PROPOSALS.boxes.tensor[2]).abs().max() < 1e-4


def test_the_limits_are_options_of_one_group():
    assert small_model(nms_thresh=0.3, max_detections=7).roi_heads.box_head.detection == Detection(0.05, 0.3, 7)


def test_classes_that_a_dataset_does_not_label_take_no_part_in_its_class_loss():
    torch.manual_seed(0)
    head = small_model().roi_heads.box_head
    features = {f"p{i}": torch.randn(2, 16, 64 >> i, 64 >> i) for i in (2, 3, 4, 5)}
    boxes = Boxes([[0.0, 0, 20, 20], [10, 10, 60, 50]])
    labels = torch.tensor([0, 3])

    def row_gradients(*infos: ImageInfo) -> torch.Tensor:
        head.zero_grad()
        proposals = [Instances((64, 64), info=i, boxes=boxes, classes=labels, gt_boxes=boxes) for i in infos]
        loss = head.loss(features, proposals).terms["loss_cls"]
        assert torch.isfinite(loss)
        loss.backward()
        return head.cls_score.weight.grad.abs().sum(1)

    partly = ImageInfo(active_classes=torch.tensor([True, False, True]))
    assert (row_gradients(partly, partly) > 0).tolist() == [True, False, True, True]
    assert (row_gradients(partly, ImageInfo()) > 0).all()
    everything = ImageInfo(active_classes=torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(row_gradients(everything, ImageInfo()), row_gradients(ImageInfo(), ImageInfo()))


def test_without_foreground_there_is_no_accuracy_of_it():
    """Neither 0, which is the worst, nor 1, which is the best."""
    metrics = small_model().train()([sample(num=0), sample(num=0, seed=1)]).metrics
    assert metrics["box_head/accuracy"].isfinite()
    for name in ("box_head/foreground_accuracy", "mask_head/accuracy"):
        assert metrics[name].isnan()
