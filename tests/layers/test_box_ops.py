"""Box operators: IoU against torchvision's box_iou, NMS by group against its batched_nms."""

import pytest
import torch
from torchvision.ops import batched_nms, box_iou, nms

from detkit.layers import nms_by_group, pairwise_iou


def test_nms_equals_torchvision():
    corner = torch.rand(300, 2) * 100 - 20
    boxes = torch.cat([corner, corner + 5 + torch.rand(300, 2) * 50], dim=1)
    scores, groups = torch.rand(300), torch.randint(0, 5, (300,))
    for thresh in (0.3, 0.5, 0.7):
        kept = nms_by_group(boxes, scores, groups, thresh)
        assert torch.equal(kept, batched_nms(boxes, scores, groups, thresh))
        assert 0 < len(kept) < 300
        together = nms_by_group(boxes, scores, None, thresh)
        assert torch.equal(together, nms(boxes, scores, thresh))
        assert len(together) < len(kept)


def test_nms_of_no_boxes():
    assert nms_by_group(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), 0.5).shape == (0,)


@pytest.mark.parametrize("groups", [None, torch.arange(40) % 2])
def test_of_equal_scores_the_first_is_kept(groups):
    boxes = torch.tensor([0.0, 0, 10, 10]).repeat(40, 1)
    kept = nms_by_group(boxes, torch.full((40,), 0.5), groups, 0.5)
    assert kept.tolist() == ([0] if groups is None else [0, 1])


def test_an_overlap_of_just_the_threshold_is_kept():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5.1]])
    assert nms_by_group(boxes, torch.tensor([0.9, 0.8, 0.7]), None, 0.5).tolist() == [0, 1]


def random_boxes(num, seed, step):
    """Corners on a grid of ``step`` pixels; some boxes without area."""
    corners = torch.rand(num, 2, 2, generator=torch.Generator().manual_seed(seed)) * 100
    corners = (corners / step).round() * step
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


def test_iou_is_torchvisions_to_the_last_bit():
    for num, step in ((1, 1.0), (40, 1e-3), (300, 10.0)):
        boxes, others = random_boxes(num, 1, step), random_boxes(900, 2, step)
        others[0] = torch.tensor([float("inf"), 0, float("inf"), 9])
        ours, theirs = pairwise_iou(boxes, others), box_iou(boxes, others)
        assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32)), "NaN where that is NaN, too"
    assert pairwise_iou(boxes[:0], others).shape == (0, 900)
