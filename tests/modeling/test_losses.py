"""Losses: against torchvision's detection losses."""

from functools import partial

import pytest
import torch
from small import sample, small_model
from torch.nn import functional as F
from torchvision.models.detection import roi_heads as torchvision_heads
from torchvision.ops import box_iou, generalized_box_iou_loss

from detkit.modeling.box_coder import DeltaBoxCoder
from detkit.modeling.box_losses import CIoUBoxLoss, GIoUBoxLoss, SmoothL1BoxLoss, foreground_box_loss
from detkit.modeling.proposals import RPN, TorchvisionRPN
from detkit.modeling.sampling import Sampling
from detkit.structures import Boxes, Instances


def test_box_head_losses_equal_torchvision():
    model = small_model(num_classes=3, box_loss=partial(SmoothL1BoxLoss, beta=1 / 9))
    head = model.roi_heads.box_head
    one = sample()
    features = model.features(model.preprocess([one]))
    labels = torch.tensor([0, 2, 1, 3, 3, 3, 3])
    gt = one.target.boxes.tensor[[0, 1, 2, 0, 0, 0, 0]]
    boxes = Boxes(gt + torch.rand(7, 4) * 4)
    proposals = Instances((64, 96), boxes=boxes, classes=labels, gt_boxes=Boxes(gt))
    with torch.no_grad():
        losses = head.loss(features, [proposals]).terms
        logits, deltas = head(features, [boxes])
        # torchvision puts background first: move the last logit to the front and the labels up by one.
        logits = torch.cat([logits[:, -1:], logits[:, :-1]], dim=1)
        deltas = torch.cat([torch.zeros(7, 4), deltas], dim=1)
        targets = DeltaBoxCoder(weights=(10.0, 10.0, 5.0, 5.0)).encode(boxes, gt)
        cls, box = torchvision_heads.fastrcnn_loss(logits, deltas, [(labels + 1) % 4], [targets])
    torch.testing.assert_close(losses["loss_cls"], cls)
    torch.testing.assert_close(losses["loss_box_reg"], box)


def test_mask_loss_is_the_cross_entropy_of_the_true_class():
    model = small_model()
    head = model.roi_heads.mask_head
    one = sample(num=3)
    features = model.features(model.preprocess([one]))
    t = one.target
    proposals = Instances(t.image_size, boxes=t.boxes, classes=t.classes, gt_boxes=t.boxes, gt_masks=t.masks)
    loss = head.loss(features, [proposals]).terms["loss_mask"]
    logits = head(features, [t.boxes])[torch.arange(3), t.classes]
    # Each object fills its box, so all of its target is foreground.
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)))


def test_giou_equals_torchvision_and_smooth_l1_equals_torch():
    coder = DeltaBoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    a = torch.tensor([[0.0, 0, 20, 10], [5, 5, 30, 40]])
    b, deltas = a + 3, torch.randn(2, 4)
    giou = GIoUBoxLoss(weight=2.0)(coder, deltas, a, b)
    torch.testing.assert_close(giou, 2 * generalized_box_iou_loss(coder.decode(a, deltas), b))
    for beta in (0.0, 0.5):
        wanted = F.smooth_l1_loss(deltas, coder.encode(a, b), beta=beta, reduction="none")
        torch.testing.assert_close(SmoothL1BoxLoss(beta=beta)(coder, deltas, a, b), wanted.sum(1))
        a_mean = SmoothL1BoxLoss(beta=beta, mean_over="foreground")(coder, deltas, a, b)
        torch.testing.assert_close(a_mean, wanted.mean(1))


@pytest.mark.parametrize("mean_over", ["samples", "foreground"])
@pytest.mark.parametrize("box_loss", [SmoothL1BoxLoss, GIoUBoxLoss, CIoUBoxLoss])
def test_rows_that_are_no_foreground_change_nothing_whatever_they_hold(box_loss, mean_over):
    coder, loss = DeltaBoxCoder(), box_loss(mean_over=mean_over)
    a = torch.tensor([[0.0, 0, 20, 10], [5, 5, 30, 40]])
    samples = torch.tensor(7)

    def value_and_gradient(deltas, reference, gt_boxes, foreground):
        deltas = deltas.clone().requires_grad_()
        value, count = foreground_box_loss(loss, coder, deltas, reference, gt_boxes, foreground, samples)
        value.backward()
        assert torch.isfinite(deltas.grad).all()
        return value.detach(), count, deltas.grad

    deltas = torch.randn(2, 4)
    alone, count, slope = value_and_gradient(deltas, a, a + 3, torch.tensor([True, True]))
    assert count == (7 if mean_over == "samples" else 2)
    assert alone > 0
    for rest in (torch.zeros(1, 4), torch.full((1, 4), torch.nan), -a[:1]):
        rows = torch.tensor([True, False, True])
        deltas_of_rest = torch.full((1, 4), 1e9)
        mixed = [torch.cat([x[:1], other, x[1:]]) for x, other in ((deltas, deltas_of_rest), (a, rest), (a + 3, rest))]
        value, count_of_mixed, slope_of_mixed = value_and_gradient(*mixed, rows)
        torch.testing.assert_close((value, count_of_mixed, slope_of_mixed[rows]), (alone, count, slope))
        assert not slope_of_mixed[1].any()
    none, count, slope = value_and_gradient(deltas, a, a + 3, torch.tensor([False, False]))
    assert none == 0
    assert not slope.any()


def test_rpn_losses_by_hand():
    model = small_model()
    rpn: RPN = model.proposal_generator
    rpn.sampling = Sampling(100_000, 1.0)  # the sample is everything: nothing is random
    samples = [sample(seed=1), sample(seed=2, num=0)]
    images = model.preprocess(samples)
    features = model.features(images)
    _, losses = rpn.loss(images, features, [s.target for s in samples])
    anchors = Boxes.cat(rpn.anchor_generator(list(features.values()), images.padded_size))
    objectness, deltas = rpn.head(list(features.values()))
    logits = torch.cat([o.permute(0, 2, 3, 1).reshape(2, -1) for o in objectness], dim=1)
    deltas = torch.cat([d.reshape(2, 3, 4, *d.shape[2:]).permute(0, 3, 4, 1, 2).reshape(2, -1, 4) for d in deltas], 1)
    iou = box_iou(samples[0].target.boxes, anchors)
    best, match = iou.max(0)
    positive = (best >= 0.7) | (iou == iou.max(1, keepdim=True).values).any(0)
    negative = (best < 0.3) & ~positive
    cls = F.softplus(-logits[0][positive]).sum() + F.softplus(logits[0][negative]).sum() + F.softplus(logits[1]).sum()
    torch.testing.assert_close(losses.terms["loss_rpn_cls"], cls / 200_000)
    wanted = rpn.box_coder.encode(anchors.tensor[positive], samples[0].target.boxes.tensor[match[positive]])
    torch.testing.assert_close(losses.terms["loss_rpn_loc"], (deltas[0][positive] - wanted).abs().sum() / 200_000)
    assert losses.metrics["rpn/num_foreground"] == positive.sum() / 2
    by_samples = small_model(rpn=TorchvisionRPN).proposal_generator
    by_samples.load_state_dict(rpn.state_dict())
    by_samples.sampling, by_samples.box_loss = rpn.sampling, SmoothL1BoxLoss(mean_over="foreground")
    _, losses = by_samples.loss(images, features, [s.target for s in samples])
    count = positive.sum() + negative.sum() + len(logits[1])
    torch.testing.assert_close(losses.terms["loss_rpn_cls"], cls / count)
    torch.testing.assert_close(losses.terms["loss_rpn_loc"], (deltas[0][positive] - wanted).abs().mean())


@pytest.mark.parametrize("num", [0, 2])
def test_a_batch_without_objects_has_finite_losses_and_gradients(num):
    model = small_model()
    losses = model.loss([sample(num=0, seed=3), sample(num=num, seed=4)])
    assert set(losses.terms) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    losses.total().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not missing
