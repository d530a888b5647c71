"""How a detector chooses among boxes that may be of one object. N boxes of an image, in all classes."""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from detkit.config import Count, Fraction, Positive
from detkit.layers import nms_by_group, pairwise_iou
from detkit.modeling.contracts import paired
from detkit.modeling.interfaces import SUPPRESSIONS, Suppression
from detkit.structures import Instances


def choose_detections(
    candidates: Instances, suppression: Suppression, nms_thresh: float, max_detections: int
) -> Instances:
    """The detections among the candidates of an image, best first.

    Args:
        candidates: ``boxes``, ``scores``, ``classes``, and any other field.
        suppression: which of them are objects.
        nms_thresh: IoU above which two boxes of a class are of one object.
        max_detections: how many detections there may be; ``num_cut`` of their info says how many more there were.

    Raises:
        ConfigError: the suppression gives something else.
    """
    boxes, scores, classes = (candidates.fields[name] for name in ("boxes", "scores", "classes"))
    found = suppression(torch.as_tensor(boxes), scores, classes, nms_thresh, max_detections)
    rows, scores = paired(suppression, found, "the boxes that stay and their scores")
    chosen = candidates[rows[:max_detections]].with_fields(scores=scores[:max_detections])
    return chosen.with_info(dataclasses.replace(candidates.info, num_cut=max(0, len(rows) - max_detections)))


@SUPPRESSIONS.register()
class HardNMS(Suppression):
    """A box that overlaps a better one of its class by more than ``nms_thresh`` is dropped: greedy NMS."""

    def __call__(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, iou_thresh: float, max_detections: int
    ) -> tuple[Tensor, Tensor]:
        """See ``Suppression.__call__``."""
        rows = nms_by_group(boxes, scores, classes, iou_thresh)
        return rows, scores[rows]


@SUPPRESSIONS.register()
class SoftNMS(Suppression):
    """A box that overlaps a better one of its class gets a lower score instead of being dropped (Bodla et al. 2017).

    Args:
        decay: the factor on the score for each better box. linear: 1 - IoU from ``nms_thresh`` on; gaussian:
            exp(-IoU^2 / sigma), whatever ``nms_thresh``.
        sigma: of the gaussian.
        min_score: a box whose score has fallen below is dropped.
    """

    def __init__(
        self, *, decay: Literal["linear", "gaussian"] = "linear", sigma: Positive = 0.5, min_score: Fraction = 0.001
    ):
        self.decay, self.sigma, self.min_score = decay, sigma, min_score

    def __call__(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, iou_thresh: float, max_detections: int
    ) -> tuple[Tensor, Tensor]:
        """See ``Suppression.__call__``."""
        num = min(len(scores), max_detections)
        taken, left = soft_nms(boxes[None].float(), scores[None].float(), classes[None], *self.decays(iou_thresh), num)
        decayed = torch.maximum(taken, left)[0]
        rows = _best_first(decayed, self.min_score)
        return rows, decayed[rows].to(scores)

    def decays(self, iou_thresh: float) -> tuple[float, float]:
        """``linear_from`` and ``power`` of ``soft_nms``."""
        return (iou_thresh, 0.0) if self.decay == "linear" else (2.0, -1 / self.sigma)  # no IoU is 2


def soft_nms(
    boxes: Tensor, scores: Tensor, classes: Tensor, linear_from: float, power: float, num: int
) -> tuple[Tensor, Tensor]:
    """``num`` steps of Soft-NMS in each of B sets of boxes, in as few operators a step as can be.

    Args:
        boxes: ``(B, N, 4)`` xyxy.
        scores: ``(B, N)``; -inf for a padding row.
        classes: ``(B, N)``; boxes of different ones do not meet.
        linear_from: IoU with a better box from which a score is multiplied by 1 - IoU.
        power: below it, a score is multiplied by e to IoU^2 times this: 0 leaves it as it is.
        num: N at most.

    Returns:
        ``(B, N)`` each: the scores at which boxes were taken, and those of the boxes that were not; -inf for others.
    """
    left, taken = scores, torch.full_like(scores, -math.inf)
    low, high = boxes[..., :2], boxes[..., 2:]
    areas, kinds = (high - low).prod(dim=-1), classes.to(boxes.dtype)
    table = torch.cat([boxes, areas[..., None], kinds[..., None]], dim=-1)
    for _ in range(num):
        score, row = left.max(dim=1, keepdim=True)
        best = table.gather(1, row[..., None].expand(-1, -1, 6))
        inter = (torch.minimum(high, best[..., 2:4]) - torch.maximum(low, best[..., :2])).clamp(min=0).prod(dim=-1)
        iou = inter / (areas + best[..., 4] - inter).clamp(min=1e-12) * (kinds == best[..., 5])
        factor = torch.where(iou >= linear_from, 1 - iou, torch.exp(iou.square() * power))
        taken = taken.scatter(1, row, score)
        left = (left * factor.clamp(min=1e-12)).scatter(1, row, -math.inf)  # -inf * 0 is no number
    return taken, left


@SUPPRESSIONS.register()
class MatrixNMS(Suppression):
    """The score of a box falls with its overlap with better ones of its class, all at once (Wang et al. 2020, SOLOv2).

    A better box counts less, the more it is itself overlapped by one that is better still. ``nms_thresh`` means nothing
    here: scores fall smoothly with the overlap, and ``min_score`` decides what is dropped.

    Args:
        decay: linear, (1 - IoU); or gaussian, exp(-sigma IoU^2).
        sigma: of the gaussian.
        pre_nms_topk: how many of the best boxes are looked at.
        min_score: a box whose score has fallen below is dropped.
    """

    def __init__(
        self,
        *,
        decay: Literal["linear", "gaussian"] = "gaussian",
        sigma: Positive = 2.0,
        pre_nms_topk: Count = 500,
        min_score: Fraction = 0.05,
    ):
        self.decay, self.sigma, self.pre_nms_topk, self.min_score = decay, sigma, pre_nms_topk, min_score

    def __call__(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, iou_thresh: float, max_detections: int
    ) -> tuple[Tensor, Tensor]:
        """See ``Suppression.__call__``."""
        candidates = scores.argsort(descending=True, stable=True)[: self.pre_nms_topk]
        if not len(candidates):
            return candidates, scores[candidates]
        iou = pairwise_iou(boxes[candidates].float(), boxes[candidates].float())
        decayed = scores[candidates] * self.factors(iou, classes[candidates]).to(scores)
        rows = _best_first(decayed, self.min_score)
        return candidates[rows], decayed[rows]

    def factors(self, iou: Tensor, classes: Tensor) -> Tensor:
        """``(..., N)``: what the score of each box is multiplied by.

        Args:
            iou: ``(..., N, N)`` of the boxes, best first.
            classes: ``(..., N)``.
        """
        iou = (iou.nan_to_num() * (classes[..., :, None] == classes[..., None, :])).triu(diagonal=1)
        worst = iou.amax(dim=-2)[..., None]  # [i, j] of iou: i is better than j
        if self.decay == "linear":  # a box that lies on a better one has nothing left to say of a third
            return ((1 - iou) / (1 - worst).clamp(min=torch.finfo(iou.dtype).eps)).amin(dim=-2)
        return torch.exp(self.sigma * (worst.square() - iou.square())).amin(dim=-2)


def _best_first(scores: Tensor, min_score: float) -> Tensor:
    """The rows of ``(N,)`` scores of at least ``min_score``, best first."""
    rows = scores.argsort(descending=True, stable=True)
    return rows[scores[rows] >= min_score]
