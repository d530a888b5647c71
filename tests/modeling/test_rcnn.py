"""The whole model: contract of ``forward``, prediction, proposals."""

import dataclasses

import pytest
import torch
from small import sample, small_model
from torchvision.ops import box_iou

from detkit.modeling.box_coder import BoxCoder
from detkit.modeling.mask_pasters import GridSampleMaskPaster
from detkit.modeling.postprocess import to_original_size
from detkit.modeling.proposals import ProposalSelection, SelectionRules
from detkit.modeling.roi_heads import DetectionRules
from detkit.structures import BitMasks, Boxes, ImageInfo, ImageList, Instances, Losses, Sample


def test_training_gives_losses_and_evaluation_gives_predictions_in_original_pixels():
    model = small_model(score_thresh=0.0)
    assert isinstance(model([sample(), sample(seed=1)]), Losses)
    image = sample().image
    outputs = model.eval()([Sample(image=image, original_size=(128, 192)), Sample(image=image, original_size=(64, 96))])
    large, small = (output.instances for output in outputs)
    assert (large.image_size, small.image_size) == ((128, 192), (64, 96))
    assert len(large) > 0
    assert isinstance(large.boxes, Boxes)
    assert isinstance(large.masks, BitMasks)
    assert large.masks.shape == (len(large), 128, 192)
    assert large.masks.dtype == torch.bool
    assert large.classes.dtype == torch.int64
    assert (large.scores.diff() <= 0).all()
    assert large.boxes[:, 2].max() <= 192
    torch.testing.assert_close(large.boxes.tensor[:5], small.boxes.tensor[:5] * 2)


def test_without_mask_head_it_is_faster_rcnn():
    model = small_model(mask=False)
    assert "loss_mask" not in model([sample()]).terms
    assert "masks" not in model.eval()([sample()])[0].instances


def test_limits_hold():
    out = small_model(score_thresh=0.0, max_detections=7).eval()([sample()])[0].instances
    assert len(out) == 7
    out = small_model(score_thresh=0.0, nms_thresh=0.3).eval()([sample()])[0].instances
    for k in range(3):
        b = out.boxes[out.classes == k]
        assert (box_iou(b, b).fill_diagonal_(0) <= 0.3 + 1e-4).all()
    assert len(small_model(score_thresh=0.999).eval()([sample()])[0].instances) == 0


def test_batching_changes_nothing():
    model = small_model(score_thresh=0.0).eval()
    a, b = sample(64, 96, seed=5), sample(64, 96, seed=6)
    for alone, together in zip([model([a])[0], model([b])[0]], model([a, b])):
        alone, together = alone.instances, together.instances
        torch.testing.assert_close(alone.boxes.tensor, together.boxes.tensor, atol=1e-3, rtol=0)
        torch.testing.assert_close(alone.scores, together.scores)


def test_wrong_inputs_are_named():
    model = small_model()
    with pytest.raises(ValueError, match="1 channels, the model expects 3"):
        model.eval()([Sample(image=torch.zeros(1, 32, 32, dtype=torch.uint8), original_size=(32, 32))])
    with pytest.raises(ValueError, match="needs targets"):
        model.train()([Sample(image=torch.zeros(3, 32, 32, dtype=torch.uint8), original_size=(32, 32), image_id=8)])
    target = sample().target.without("masks")
    with pytest.raises(ValueError, match="mask_head=null"):
        model([Sample(image=sample().image, original_size=(64, 96), target=target)])


def test_selection_keeps_the_best_of_each_level_and_drops_what_is_not_finite():
    select = ProposalSelection(pre_nms_topk_test=2, post_nms_topk_test=3, nms_thresh=0.5)
    anchors = [Boxes([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]), Boxes([[0.0, 0, 10, 10]])]
    logits = [torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[0.5]])]
    deltas = [torch.zeros(1, 3, 4), torch.zeros(1, 1, 4)]
    model = small_model()
    images = ImageList(torch.zeros(1, 3, 32, 64), [(20, 45)])
    out = select(anchors, logits, deltas, images, model.proposal_generator.box_coder, training=False)[0]
    assert out.objectness.tolist() == [3.0, 2.0, 0.5]  # the third of level 0 was beyond its two
    assert out.boxes.tolist() == [[20, 0, 30, 10], [40, 0, 45, 10], [0, 0, 10, 10]]  # clipped to the image
    deltas[0][0, 1, 0] = float("nan")
    out = select(anchors, logits, deltas, images, model.proposal_generator.box_coder, training=False)[0]
    assert out.objectness.tolist() == [2.0, 0.5]


def test_selection_over_all_levels_together():
    """The seed's proposal layer: one top-k, one NMS, clipped to the canvas, empty boxes kept."""
    anchors = [Boxes([[0.0, 0, 10, 10], [20, 0, 30, 10]]), Boxes([[0.0, 0, 10, 10], [70, 0, 80, 10]])]
    logits = [torch.tensor([[1.0, 0.2]]), torch.tensor([[0.5, 0.4]])]
    deltas = [torch.zeros(1, 2, 4)] * 2
    images = ImageList(torch.zeros(1, 3, 32, 64), [(20, 45)])
    coder = BoxCoder()
    rules = SelectionRules(topk="image", nms="image", clip="canvas")
    select = ProposalSelection(pre_nms_topk_test=3, nms_thresh=0.5, min_size=None, rules=rules)
    out = select(anchors, logits, deltas, images, coder, training=False)[0]
    assert out.objectness.tolist() == pytest.approx([1.0, 0.4])  # 0.5 is suppressed across levels, 0.2 is the fourth
    assert out.boxes.tolist() == [[0, 0, 10, 10], [64, 0, 64, 10]]
    by_level = dataclasses.replace(select, rules=SelectionRules(), min_size=0.0)
    out = by_level(anchors, logits, deltas, images, coder, training=False)[0]
    assert out.objectness.tolist() == pytest.approx([1.0, 0.5, 0.2])
    likely = dataclasses.replace(by_level, score_thresh=0.6)  # sigmoid(0.5) = 0.62
    assert len(likely(anchors, logits, deltas, images, coder, training=False)[0]) == 2


def test_boxes_are_clipped_to_the_picture_and_mapped_back_from_it():
    """A picture of 40 x 60 in the middle of a canvas of 64 x 64."""
    info = ImageInfo(valid_region=(2, 12, 62, 52))
    detections = Instances(
        (64, 64), info=info, boxes=Boxes([[2.0, 12, 62, 52], [32, 32, 62, 52]]), scores=torch.ones(2)
    )
    out = to_original_size(detections, (20, 30), GridSampleMaskPaster())
    assert out.boxes.tolist() == [[0, 0, 30, 20], [15, 10, 30, 20]]
    head = small_model(score_thresh=0.0).roi_heads.box_head
    proposals = Instances((64, 64), info=info, boxes=Boxes([[0.0, 0, 64, 64]]))
    found = head._detect(torch.tensor([[0.0, 0, 64, 64]]).repeat(1, 3), torch.tensor([[0.5, 0.3, 0.1, 0.1]]), proposals)
    assert found.boxes.tolist() == [[2, 12, 62, 52]] * 3


def test_one_class_a_region_rounding_and_small_boxes():
    head = small_model(score_thresh=0.05).roi_heads.box_head
    proposals = Instances((64, 64), boxes=Boxes([[0.0, 0, 9, 9]] * 3))
    boxes = torch.tensor([[0.4, 0.6, 20.2, 20.7], [30, 30, 50, 50], [40, 5, 40.3, 9]]).repeat(1, 3)
    probs = torch.tensor([[0.1, 0.5, 0.2, 0.2], [0.3, 0.2, 0.1, 0.4], [0.6, 0.2, 0.1, 0.1]])
    assert len(head._detect(boxes, probs, proposals)) == 9
    head.detection = DetectionRules(one_class_per_region=True, round_boxes=True)
    found = head._detect(boxes, probs, proposals)
    assert found.classes.tolist() == [0, 1]  # the second region is background
    assert found.boxes.tolist() == [[40, 5, 40, 9], [0, 1, 20, 21]]
    head.detection = DetectionRules(one_class_per_region=True, min_size=1.0)
    assert head._detect(boxes, probs, proposals).classes.tolist() == [1]


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


def test_crowds_are_no_targets_and_nothing_on_them_is_background():
    model = small_model().train()
    one = sample(num=3)
    crowd = torch.tensor([False, True, False])
    flagged = dataclasses.replace(one, target=one.target.with_fields(crowd=crowd))
    _, targets = model.preprocess.with_targets([flagged])
    assert len(targets[0]) == 2
    assert targets[0].info.crowds.tolist() == one.target.boxes[1:2].tolist()
    anchors = Boxes.cat([one.target.boxes[1:2], one.target.boxes[:1]])
    rpn = model.proposal_generator
    rpn.matcher = dataclasses.replace(rpn.matcher, crowd_thresh=0.001)
    assert rpn.label(anchors, targets)[0][0][0] != 0
    assert torch.isfinite(model([flagged]).total())


def test_sampling_of_regions_labels_by_overlap():
    heads = small_model().roi_heads
    target = sample(num=2).target
    far = Boxes([[0.0, 0, 3, 3]])
    proposals = Instances(target.image_size, boxes=Boxes.cat([target.boxes, far]), objectness=torch.zeros(3))
    (sampled,) = heads.sample([proposals], [target])
    assert len(sampled) == 5  # ground truth is appended
    foreground = sampled[sampled.classes < 3]
    assert len(foreground) == 4
    torch.testing.assert_close(foreground.gt_boxes.tensor, foreground.boxes.tensor)
    torch.testing.assert_close(foreground.classes, target.classes[foreground.gt_index])
    heads.append_ground_truth = False
    assert len(heads.sample([proposals], [target])[0]) == 3
