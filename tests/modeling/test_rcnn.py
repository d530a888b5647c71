"""The whole model: contract of ``forward``, preprocessing, prediction, proposals."""

import pytest
import torch
from small import sample, small_model
from torchvision.ops import box_iou

from detkit.modeling.postprocess import to_original_size
from detkit.modeling.proposals.selection import ProposalSelection
from detkit.structures import BitMasks, Boxes, Instances, Losses, Sample


def test_training_gives_losses_and_evaluation_gives_instances_in_original_pixels():
    model = small_model(score_thresh=0.0)
    assert isinstance(model([sample(), sample(seed=1)]), Losses)
    image = sample().image
    outputs = model.eval()([Sample(image=image, original_size=(128, 192)), Sample(image=image, original_size=(64, 96))])
    large, small = outputs
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
    assert "masks" not in model.eval()([sample()])[0]


def test_limits_hold():
    out = small_model(score_thresh=0.0, max_detections=7).eval()([sample()])[0]
    assert len(out) == 7
    out = small_model(score_thresh=0.0, nms_thresh=0.3).eval()([sample()])[0]
    for k in range(3):
        b = out.boxes[out.classes == k]
        assert (box_iou(b, b).fill_diagonal_(0) <= 0.3 + 1e-4).all()
    assert len(small_model(score_thresh=0.999).eval()([sample()])[0]) == 0


def test_preprocessing_normalises_pads_and_turns_channels():
    model = small_model()
    a, b = sample(60, 90), sample(33, 64)
    images = model.preprocess([a, b])
    assert images.tensor.shape == (2, 3, 64, 96)
    assert images.image_sizes == [(60, 90), (33, 64)]
    wanted = (a.image.float() - model.pixel_mean) / model.pixel_std
    torch.testing.assert_close(images.tensor[0, :, :60, :90], wanted)
    assert not images.tensor[1, :, 33:].any()
    assert images.tensor.is_contiguous(memory_format=torch.channels_last)
    model.channel_order = "BGR"
    turned = (a.image.flip(0).float() - model.pixel_mean) / model.pixel_std
    torch.testing.assert_close(model.preprocess([a]).tensor[0, :, :60, :90], turned)


def test_batching_changes_nothing():
    model = small_model(score_thresh=0.0).eval()
    a, b = sample(64, 96, seed=5), sample(64, 96, seed=6)
    for alone, together in zip([model([a])[0], model([b])[0]], model([a, b])):
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
    out = select(anchors, logits, deltas, [(20, 45)], model.proposal_generator.box_coder, training=False)[0]
    assert out.objectness.tolist() == [3.0, 2.0, 0.5]  # the third of level 0 was beyond its two
    assert out.boxes.tolist() == [[20, 0, 30, 10], [40, 0, 45, 10], [0, 0, 10, 10]]  # clipped to the image
    deltas[0][0, 1, 0] = float("nan")
    out = select(anchors, logits, deltas, [(20, 45)], model.proposal_generator.box_coder, training=False)[0]
    assert out.objectness.tolist() == [2.0, 0.5]


def test_sampling_of_regions_labels_by_overlap():
    heads = small_model().roi_heads
    target = sample(num=2).target
    far = Boxes([[0.0, 0, 3, 3]])
    proposals = Instances(target.image_size, boxes=Boxes.cat([target.boxes, far]), objectness=torch.zeros(3))
    sampled = heads.sample(proposals, target)
    assert len(sampled) == 5  # ground truth is appended
    foreground = sampled[sampled.classes < 3]
    assert len(foreground) == 4
    torch.testing.assert_close(foreground.gt_boxes.tensor, foreground.boxes.tensor)
    torch.testing.assert_close(foreground.classes, target.classes[foreground.gt_index])
    heads.append_ground_truth = False
    assert len(heads.sample(proposals, target)) == 3


def test_postprocess_drops_boxes_that_vanish():
    detections = Instances(
        (100, 100),
        boxes=Boxes([[10.0, 10, 50, 50], [100.0, 20, 120, 30]]),
        scores=torch.tensor([0.9, 0.8]),
        classes=torch.tensor([0, 1]),
        mask_probs=torch.ones(2, 28, 28),
    )
    out = to_original_size(detections, (50, 200))
    assert out.boxes.tolist() == [[20, 5, 100, 25]]
    assert out.masks.sum() == 80 * 20
    assert "mask_probs" in detections  # the argument is left as it was
