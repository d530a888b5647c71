"""Matcher: against torchvision's, and its corner cases."""

import subprocess
import sys

import pytest
import torch
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.ops import box_iou

from detkit.layers import box_ops
from detkit.modeling.matcher import Matcher
from detkit.structures import Boxes, ImageInfo, Instances


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0.3, 0.7), (0.5, 0.5)])
def test_equals_torchvision(low, high, low_quality):
    iou = torch.rand(6, 400) ** 2
    iou[:, :50] = (iou[:, :50] * 4).round() / 4  # ties
    matches, labels = Matcher(low, high, low_quality)(iou)
    theirs = TorchvisionMatcher(high, low, allow_low_quality_matches=low_quality)(iou)
    assert torch.equal(labels == 1, theirs >= 0)
    assert torch.equal(labels == 0, theirs == TorchvisionMatcher.BELOW_LOW_THRESHOLD)
    assert torch.equal(labels == -1, theirs == TorchvisionMatcher.BETWEEN_THRESHOLDS)
    assert torch.equal(matches[labels == 1], theirs[theirs >= 0])


def test_without_ground_truth_everything_is_background():
    matches, labels = Matcher()(torch.zeros(0, 7))
    assert labels.tolist() == [0] * 7
    assert matches.tolist() == [0] * 7


def test_thresholds_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match="background_thresh"):
        Matcher(0.7, 0.3)


@pytest.mark.parametrize("num_objects", [0, 1])
def test_background_on_a_crowd_is_ignored_and_foreground_on_it_is_not(num_objects):
    target = Instances(
        (100, 100),
        info=ImageInfo(crowds=Boxes([[50.0, 50, 100, 100]])),
        boxes=Boxes([[60.0, 60, 80, 80]])[:num_objects],
    )
    boxes = Boxes([[60.0, 60, 80, 80], [90, 90, 99, 99], [45, 45, 51, 51], [0, 0, 20, 20]])
    _, labels = Matcher(0.5, 0.5, crowd_thresh=0.001).match(boxes, target)
    assert labels.tolist() == [1 if num_objects else -1, -1, 0, 0]  # the third overlaps by 1 / 2535 only
    _, labels = Matcher(0.5, 0.5).match(boxes, target)
    assert labels.tolist() == [num_objects, 0, 0, 0]


def test_a_crowd_threshold_of_nothing_is_refused():
    with pytest.raises(ValueError, match="crowd_thresh"):
        Matcher(crowd_thresh=0.0)


def test_of_equally_good_candidates_all_or_the_first():
    iou = torch.tensor([[0.1, 0.2, 0.2, 0.0], [0.0, 0.1, 0.0, 0.25]])
    assert Matcher(0.3, 0.7, allow_low_quality=True)(iou)[1].tolist() == [0, 1, 1, 1]
    assert Matcher(0.3, 0.7, allow_low_quality=True, low_quality_ties=False)(iou)[1].tolist() == [0, 1, 0, 1]
    assert Matcher(0.3, 0.7, low_quality_ties=False)(iou)[1].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("pairs", [1, 2**20])
def test_a_box_that_no_candidate_overlaps_has_no_best_candidates(monkeypatch, pairs):
    monkeypatch.setattr(box_ops, "PAIRS_AT_ONCE", pairs)
    anchors = Boxes([[0.0, 0, 4, 4], [16, 0, 20, 4], [32, 0, 36, 4]])
    target = Instances((64, 64), boxes=Boxes([[6.0, 6, 9, 9], [17, 0, 27, 4]]))  # the first lies between the anchors
    assert Matcher(0.3, 0.7, allow_low_quality=True).match(anchors, target)[1].tolist() == [0, 1, 0]


def random_boxes(num, seed, step=1.0):
    """Corners on a grid of ``step`` pixels, so that there are ties; some boxes without area."""
    corners = torch.rand(num, 2, 2, generator=torch.Generator().manual_seed(seed)) * 100
    corners = (corners / step).round() * step
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("spoilt", [None, [float("nan")] * 4, [200.0, 200, 210, 210]])
def test_in_parts_it_gives_what_it_gives_at_once(monkeypatch, low_quality, ties, spoilt):
    truth, boxes = random_boxes(37, 3, 5.0), random_boxes(1000, 4, 5.0)  # a grid of 5: many equally good
    if spoilt is not None:  # a box that is no number, or one that no candidate touches
        truth[5] = torch.tensor(spoilt)
    crowds = Boxes(random_boxes(3, 5, 5.0))
    target = Instances((100, 100), info=ImageInfo(crowds=crowds), boxes=Boxes(truth))
    matcher = Matcher(0.3, 0.7, low_quality, crowd_thresh=0.2, low_quality_ties=ties)
    at_once = matcher.match(Boxes(boxes), target)
    assert torch.equal(at_once[0], matcher(box_iou(truth, boxes))[0])
    for pairs in (1, 37 * 10, 37 * 333, 37 * 999):
        monkeypatch.setattr(box_ops, "PAIRS_AT_ONCE", pairs)
        in_parts = matcher.match(Boxes(boxes), target)
        assert torch.equal(in_parts[0], at_once[0])
        assert torch.equal(in_parts[1], at_once[1])


CROWDED = """
import torch
from detkit.modeling.matcher import Matcher
from detkit.structures import Boxes, Instances


def peak():
    lines = open("/proc/self/status").read().splitlines()  # what getrusage says begins at the parent's
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


corner = torch.rand(268_569, 2) * 1000  # as many anchors as a pyramid has on 800 x 1333 pixels
anchors = Boxes(torch.cat([corner, corner + torch.rand(268_569, 2) * 200], 1))
target = Instances((800, 1333), boxes=anchors[:1000])
matcher = Matcher(0.3, 0.7, allow_low_quality=True)
matcher.match(anchors, target[:10])
before = peak()
matches, labels = matcher.match(anchors, target)
assert (matches[:1000] == torch.arange(1000)).all() and (labels[:1000] == 1).all()
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_a_thousand_objects_on_all_anchors_of_a_large_image_take_little_memory():
    done = subprocess.run([sys.executable, "-c", CROWDED], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 * 1024, "KiB; all IoUs at once are 1 GiB, and what they are made from several times"
