"""Matcher: against torchvision's, and its corner cases."""

import pytest
import torch
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher

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
