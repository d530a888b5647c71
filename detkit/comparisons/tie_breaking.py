"""Which of several equals is kept is arbitrary: what that excuses, and what not."""

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detkit.comparisons.measure import PIXELS, SCORE, match, set_difference
from detkit.comparisons.report import Difference
from detkit.structures import Instances


@dataclasses.dataclass(frozen=True)
class TieBreaking:
    """How a reference chooses detections from candidates.

    Args:
        nms_thresh: IoU above which boxes of a class suppress one another.
        limit: detections an image.
    """

    nms_thresh: float
    limit: int

    @classmethod
    def of(cls, reference: Any) -> "TieBreaking":
        """Of one of torchvision's models."""
        return cls(reference.roi_heads.nms_thresh, reference.roi_heads.detections_per_img)

    def differences(self, ours: Instances, theirs: Instances, candidates: Instances) -> tuple[Difference, Difference]:
        """Of the scores and of the boxes of detections; see ``match`` and ``count_tied``."""
        tied = self.count_tied(ours, theirs, candidates)
        return set_difference("scores", ours, theirs, tied=tied), set_difference("boxes", ours, theirs, tied=tied)

    def count_tied(self, ours: Instances, theirs: Instances, candidates: Instances) -> int:
        """How many detections without a counterpart are ties.

        Of two overlapping boxes of a class whose scores agree to the tolerance, rounding decides which suppresses the
        other; which boxes that one suppresses in turn, and where the list is cut, follows from it. Nothing is excused
        unless every one of our boxes is also among those that the reference chose from, with the same score: a box that
        the reference has not even computed is no tie.

        Args:
            ours, theirs: detections: ``boxes``, ``scores``, ``classes``.
            candidates: what the reference chose from, before suppression; in the pixels of the other two.
        """
        rows, partners = match(ours, theirs)
        a = ours[~torch.isin(torch.arange(len(ours)), rows)]
        b = theirs[~torch.isin(torch.arange(len(theirs)), partners)]
        if not all(_computed(a[i], candidates) for i in range(len(a))):
            return 0
        same_class = a.classes[:, None] == b.classes[None]
        overlap = (box_iou(a.boxes.tensor, b.boxes.tensor) > self.nms_thresh - 1e-4) & same_class
        gap = a.scores[:, None].double() - b.scores[None].double()
        equal = overlap & (gap.abs() <= SCORE)
        excused = [equal.any(1) | self._cut(a, theirs), equal.any(0) | self._cut(b, ours)]
        while True:
            more = [
                excused[0] | (overlap & (gap < SCORE) & excused[1][None]).any(1),  # suppressed by one that won a tie
                excused[1] | (overlap & (gap > -SCORE) & excused[0][:, None]).any(0),
            ]
            if all(torch.equal(new, old) for new, old in zip(more, excused)):
                return int(excused[0].sum() + excused[1].sum())
            excused = more

    def _cut(self, these: Instances, others: Instances) -> Tensor:
        """Those that would stand at or behind the end of the other list, if that is full."""
        if len(others) < self.limit or not len(others):
            return torch.zeros(len(these), dtype=torch.bool)
        return these.scores <= others.scores.min() + SCORE


def _computed(detection: Instances, candidates: Instances) -> bool:
    near = (candidates.boxes.tensor - detection.boxes.tensor).abs().amax(1) <= PIXELS
    near &= (candidates.scores - detection.scores).abs() <= SCORE
    return bool((near & (candidates.classes == detection.classes)).any())
