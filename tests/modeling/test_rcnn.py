"""The whole model: contract of ``forward``, prediction, proposals."""

import dataclasses

import pytest
import torch
from small import sample, small_model
from torchvision.ops import box_iou

from detkit.modeling.mask_pasters import GridSampleMaskPaster
from detkit.modeling.postprocess import to_original_size
from detkit.modeling.roi_heads import BoxPredictions
from detkit.structures import Boxes, CroppedMasks, ImageInfo, Instances, Losses, Sample


def test_training_gives_losses_and_evaluation_gives_predictions_in_original_pixels():
    model = small_model(score_thresh=0.0)
    assert isinstance(model([sample(), sample(seed=1)]), Losses)
    image = sample().image
    outputs = model.eval()([Sample(image=image, original_size=(128, 192)), Sample(image=image, original_size=(64, 96))])
    large, small = (output.instances for output in outputs)
    assert (large.image_size, small.image_size) == ((128, 192), (64, 96))
    assert len(large) > 0
    assert isinstance(large.boxes, Boxes)
    assert isinstance(large.masks, CroppedMasks)
    assert large.masks.shape == (len(large), 128, 192)
    assert large.masks.tensor.dtype == torch.bool
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


def test_boxes_are_clipped_to_the_valid_region_and_mapped_back_from_it():
    """An image of 40 x 60 in the middle of one of 64 x 64."""
    info = ImageInfo(valid_region=(2, 12, 62, 52))
    detections = Instances(
        (64, 64), info=info, boxes=Boxes([[2.0, 12, 62, 52], [32, 32, 62, 52]]), scores=torch.ones(2)
    )
    out = to_original_size(detections, (20, 30), GridSampleMaskPaster())
    assert out.boxes.tolist() == [[0, 0, 30, 20], [15, 10, 30, 20]]
    head = small_model(score_thresh=0.0).roi_heads.box_head
    proposals = Instances((64, 64), info=info, boxes=Boxes([[0.0, 0, 64, 64]]))
    predictions = BoxPredictions(torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log(), torch.zeros(1, 12))
    (found,) = head.detections(predictions, [proposals])
    assert found.boxes.tolist() == [[2, 12, 62, 52]] * 3


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
    _, labels = rpn.label(anchors, targets)
    assert labels[0, 0] != 0
    assert torch.isfinite(model([flagged]).total())
