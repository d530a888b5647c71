"""NMS by group: against torchvision's batched_nms. NMS of a batch as a mask: against NMS by group, image by image."""

import pytest
import torch
from torchvision.ops import batched_nms, nms

from detkit.layers import nms_by_group, nms_keep


def test_equals_torchvision():
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


def test_no_boxes():
    assert nms_by_group(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), 0.5).shape == (0,)


def batch(images: int, each: int, seed: int = 0):
    """Boxes that overlap, tied scores, 3 groups, and about a fifth of the rows no candidates but NaN."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(images, each, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 10 + torch.rand(images, each, 2, generator=generator) * 40], dim=2)
    scores = (torch.rand(images, each, generator=generator) * 20).round() / 20
    groups = torch.randint(0, 3, (images, each), generator=generator)
    candidates = torch.rand(images, each, generator=generator) < 0.8
    boxes[~candidates], scores[~candidates] = float("nan"), float("nan")
    return boxes, scores, groups, candidates


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("thresh", [0.3, 0.7])
def test_a_batch_is_kept_image_by_image(grouped, thresh):
    boxes, scores, groups, candidates = batch(3, 200)
    candidates[1] = False
    kept = nms_keep(boxes, scores, groups if grouped else None, candidates, thresh)
    assert kept.dtype == torch.bool
    for image in range(3):
        rows = candidates[image].nonzero()[:, 0]
        group = groups[image, rows] if grouped else None
        expected = rows[nms_by_group(boxes[image, rows], scores[image, rows], group, thresh)]
        assert torch.equal(kept[image].nonzero()[:, 0], expected.sort().values)
    assert kept[0].any()
    assert not kept[1].any()
    assert not (kept & ~candidates).any()
    assert (candidates & ~kept).any(), "some are dropped"


def test_of_equal_scores_the_first_is_kept():
    boxes = torch.tensor([0.0, 0, 10, 10]).repeat(1, 40, 1)
    scores, candidates = torch.full((1, 40), 0.5), torch.ones(1, 40, dtype=torch.bool)
    candidates[0, :3] = False
    assert nms_keep(boxes, scores, None, candidates, 0.5)[0].nonzero()[:, 0].tolist() == [3]
    groups = torch.arange(40)[None] % 2
    assert nms_keep(boxes, scores, groups, candidates, 0.5)[0].nonzero()[:, 0].tolist() == [3, 4]


def test_an_overlap_of_just_the_threshold_is_kept():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5.1]]])
    every = torch.ones(1, 3, dtype=torch.bool)
    assert nms_keep(boxes, torch.tensor([[0.9, 0.8, 0.7]]), None, every, 0.5).tolist() == [[True, True, False]]


@pytest.mark.parametrize(("images", "each"), [(0, 5), (2, 0), (0, 0)])
@pytest.mark.parametrize("grouped", [True, False])
def test_an_empty_batch(images, each, grouped):
    groups = torch.zeros(images, each).long() if grouped else None
    candidates = torch.ones(images, each, dtype=torch.bool)
    kept = nms_keep(torch.zeros(images, each, 4), torch.zeros(images, each), groups, candidates, 0.5)
    assert kept.shape == (images, each)
    assert kept.dtype == torch.bool
