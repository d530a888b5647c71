"""NMS by group: against torchvision's batched_nms. NMS of a batch as a mask: against NMS by group, image by image."""

import logging
import subprocess
import sys

import pytest
import torch
from overlapping import batch, nms_keep
from torchvision.ops import batched_nms, box_iou, nms

from detkit.layers import nms as nms_file
from detkit.layers import nms_best, nms_by_group


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


@pytest.fixture
def use_as_kernel(monkeypatch):
    """Has ``nms_best`` find a function of the test's as the kernel of the CPU."""

    def use(function):
        monkeypatch.setattr(nms_file, "_kernel", lambda device: function)
        nms_file._checked_kernel.cache_clear()

    yield use
    nms_file._checked_kernel.cache_clear()


def keeps_by_loop(boxes, scores, groups, candidates, iou_thresh):
    """The greedy rule, box by box."""
    keep = torch.zeros_like(candidates)
    for image in range(len(boxes)):
        left = [row for row in scores[image].sort(descending=True, stable=True).indices if candidates[image, row]]
        while left:
            best, *left = left
            keep[image, best] = True
            if left:
                rows = torch.stack(left)
                drop = box_iou(boxes[image, best][None], boxes[image, rows])[0] > iou_thresh
                if groups is not None:
                    drop &= groups[image, rows] == groups[image, best]
                left = [row for row, dropped in zip(left, drop.tolist()) if not dropped]
    return keep


def test_a_kernel_that_keeps_the_right_boxes_is_used(use_as_kernel, caplog):
    calls = []

    def right(boxes, *others):
        calls.append(boxes.shape)
        return keeps_by_loop(boxes, *others)

    use_as_kernel(right)
    for _ in range(2):
        nms_keep(*batch(2, 50), 0.5)
    assert [shape[1] for shape in calls] == [1019, 1019, 50, 50], "checked once, with groups and without"
    nms_keep(*batch(1, 1025), 0.5)
    assert [shape[1] for shape in calls[4:]] == [2043, 2043, 1025], "another size is another kernel"
    assert not caplog.records


def one_too_many(boxes, scores, groups, candidates, iou_thresh):
    keep = nms_file._keep_image_by_image(boxes, scores, groups, candidates, iou_thresh)
    dropped = (candidates & ~keep).nonzero()
    keep[tuple(dropped[-1])] = True
    return keep


def blind_to_groups(boxes, scores, groups, candidates, iou_thresh):
    return nms_file._keep_image_by_image(boxes, scores, None, candidates, iou_thresh)


def last_of_equals_first(boxes, scores, groups, candidates, iou_thresh):
    turned = [None if part is None else part.flip(1) for part in (boxes, scores, groups, candidates)]
    return nms_file._keep_image_by_image(*turned, iou_thresh).flip(1)


def does_not_compile(*_):
    raise RuntimeError("ptxas: no such machine")


@pytest.mark.parametrize(
    ("kernel", "word"),
    [
        (one_too_many, "keeps other boxes"),
        (blind_to_groups, "keeps other boxes"),
        (last_of_equals_first, "keeps other boxes"),
        (does_not_compile, "RuntimeError: ptxas: no such machine"),
    ],
)
def test_a_kernel_that_fails_is_left_with_one_warning(kernel, word, use_as_kernel, caplog):
    use_as_kernel(kernel)
    arguments = batch(2, 100)
    with caplog.at_level(logging.WARNING):
        found = [nms_keep(*arguments, 0.5) for _ in range(3)]
    expected = nms_file._keep_image_by_image(*arguments, 0.5)
    assert all(torch.equal(kept, expected) for kept in found)
    (record,) = caplog.records
    assert record.name == "detkit.layers.nms"
    assert word in record.getMessage()
    assert "torchvision's operator" in record.getMessage()


def test_more_boxes_than_the_kernel_is_for(use_as_kernel, caplog):
    use_as_kernel(does_not_compile)
    candidates = torch.zeros(1, nms_file.MAX_BOXES + 1, dtype=torch.bool)
    candidates[0, 7] = True
    shape = candidates.shape
    assert torch.equal(nms_keep(torch.zeros(*shape, 4), torch.zeros(shape), None, candidates, 0.5), candidates)
    assert not caplog.records


def test_without_triton():
    code = """
import sys
sys.modules["triton"] = None
import torch
from detkit.layers import nms_best
every = torch.ones(1, 2, dtype=torch.bool)
index, found = nms_best(torch.zeros(1, 2, 4), torch.zeros(1, 2), None, every, 0.5, 2)
print(found.tolist(), "detkit.layers.nms_kernel" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[[True, True]] False", done.stderr


@pytest.mark.parametrize("num", [0, 3, 40, 500])
@pytest.mark.parametrize("grouped", [True, False])
def test_the_best_are_in_the_operators_order_equal_scores_too(num, grouped):
    corner = torch.rand(3, 200, 2) * 100
    boxes = torch.cat([corner, corner + 5 + torch.rand(3, 200, 2) * 50], dim=2)
    scores = torch.randint(0, 9, (3, 200)) / 9
    groups = torch.randint(0, 3, (3, 200)) if grouped else None
    candidates = torch.rand(3, 200) < torch.tensor([[0.9], [0.3], [0.0]])
    index, found = nms_best(boxes, scores, groups, candidates, 0.3, num)
    assert index.shape == found.shape == (3, min(num, 200))
    for i, rows in enumerate(candidates):
        rows = rows.nonzero()[:, 0]
        of_image = None if groups is None else groups[i, rows]
        wanted = rows[nms_by_group(boxes[i, rows], scores[i, rows], of_image, 0.3)][:num]
        assert index[i, found[i]].equal(wanted)
        assert found[i].sum() == len(wanted)
        assert found[i, : len(wanted)].all()
