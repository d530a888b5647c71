"""RPN: which scored anchors become proposals, by the rules of each reference."""

from functools import partial

import pytest
import torch
from small import sample, small_model

from detkit.modeling.proposals import RPN, MatterportRPN, ProposalSelection, TorchvisionRPN
from detkit.structures import Boxes, ImageList


def select(anchors, logits, deltas, images, rpn=RPN, **options):
    """The proposals of the first image."""
    generator = small_model(rpn=rpn).proposal_generator
    generator.selection = ProposalSelection(**options)
    return generator.select(anchors, logits, deltas, images, training=False)[0]


def test_selection_keeps_the_best_of_each_level_and_drops_what_is_not_finite():
    options = {"pre_nms_topk_test": 2, "post_nms_topk_test": 3, "nms_thresh": 0.5}
    anchors = [Boxes([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]), Boxes([[0.0, 0, 10, 10]])]
    logits = [torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[0.5]])]
    deltas = [torch.zeros(1, 3, 4), torch.zeros(1, 1, 4)]
    images = ImageList(torch.zeros(1, 3, 32, 64), [(20, 45)])
    out = select(anchors, logits, deltas, images, **options)
    assert out.objectness.tolist() == [3.0, 2.0, 0.5]  # the third of level 0 was beyond its two
    assert out.boxes.tolist() == [[20, 0, 30, 10], [40, 0, 45, 10], [0, 0, 10, 10]]  # clipped to the image
    deltas[0][0, 1, 0] = float("nan")
    assert select(anchors, logits, deltas, images, **options).objectness.tolist() == [2.0, 0.5]


LEVELS = {
    "anchors": [Boxes([[0.0, 0, 10, 10], [20, 0, 30, 10]]), Boxes([[0.0, 0, 10, 10], [70, 0, 80, 10]])],
    "logits": [torch.tensor([[1.0, 0.2]]), torch.tensor([[0.5, 0.4]])],
    "deltas": [torch.zeros(1, 2, 4)] * 2,
    "images": ImageList(torch.zeros(1, 3, 32, 64), [(20, 45)]),
}


def test_matterport_selects_over_all_levels_together():
    """One top-k, one NMS, clipped to the padded image, empty boxes kept."""
    out = select(**LEVELS, rpn=MatterportRPN, pre_nms_topk_test=3, nms_thresh=0.5, min_size=None)
    assert out.objectness.tolist() == pytest.approx([1.0, 0.4])  # 0.5 is suppressed across levels, 0.2 is the fourth
    assert out.boxes.tolist() == [[0, 0, 10, 10], [64, 0, 64, 10]]
    out = select(**LEVELS, pre_nms_topk_test=3, nms_thresh=0.5)
    assert out.objectness.tolist() == pytest.approx([1.0, 0.5, 0.2])


def test_improbable_and_small_candidates_are_dropped():
    assert len(select(**LEVELS, score_thresh=0.6)) == 2  # sigmoid(0.5) = 0.62
    assert len(select(**LEVELS, min_size=10.0)) == 0
    assert len(select(**LEVELS, min_size=None)) == 4


@pytest.mark.parametrize(("rpn", "kept"), [(RPN, 50.0), (TorchvisionRPN, 40.0)])
def test_torchvision_ranks_by_probability_which_is_the_same_for_all_that_is_certain(rpn, kept):
    anchors = [Boxes([[0.0, 0, 10, 10]]), Boxes([[0.0, 0, 10, 10]])]
    logits, deltas = [torch.tensor([[40.0]]), torch.tensor([[50.0]])], [torch.zeros(1, 1, 4)] * 2
    images = ImageList(torch.zeros(1, 3, 32, 64), [(20, 45)])
    out = select(anchors, logits, deltas, images, rpn=rpn, post_nms_topk_test=1)
    assert out.objectness.tolist() == [kept]


def test_a_proposal_is_the_same_whatever_else_is_in_the_batch():
    torch.manual_seed(0)
    corner = torch.rand(80, 2) * 50
    anchors = [Boxes(torch.cat([corner, corner + 4 + torch.rand(80, 2) * 30], 1))]
    logits, deltas = [torch.randn(3, 80)], [torch.randn(3, 80, 4) / 5]
    images = ImageList(torch.zeros(3, 3, 64, 64), [(64, 64), (50, 60), (64, 40)])
    generator = small_model().proposal_generator
    together = generator.select(anchors, logits, deltas, images, training=False)
    for i, size in enumerate(images.image_sizes):
        one = ImageList(images.tensor[i : i + 1], [size])
        (alone,) = generator.select(anchors, [logits[0][i : i + 1]], [deltas[0][i : i + 1]], one, training=False)
        assert torch.equal(alone.boxes.tensor, together[i].boxes.tensor)
        assert torch.equal(alone.objectness, together[i].objectness)


@pytest.mark.parametrize("rpn", [RPN, TorchvisionRPN])
def test_the_loss_weight_is_a_factor_on_both_losses(rpn):
    losses = []
    for weight in (1.0, 0.5):
        torch.manual_seed(0)
        model = small_model(rpn=partial(rpn, loss_weight=weight))
        torch.manual_seed(1)
        losses.append(model([sample()]).terms)
    for name, value in losses[0].items():
        assert losses[1][name] == value * (0.5 if "rpn" in name else 1.0)
