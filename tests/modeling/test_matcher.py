"""Matcher: against torchvision's, and its corner cases."""

import pytest
import torch
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher

from detkit.modeling.matcher import Matcher


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
