"""Matcher: which ground-truth box a proposal or an anchor belongs to."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from detkit.config import Fraction, Share
from detkit.layers import box_ops, pairwise_iou
from detkit.structures import Boxes, Instances


@dataclasses.dataclass(frozen=True)
class Matcher:
    """Matches by IoU (Faster R-CNN, Ren et al. 2015, section 3.1.2).

    Args:
        background_thresh: a candidate whose best IoU is below this is background.
        foreground_thresh: from this IoU on it is foreground; in between it is ignored.
        allow_low_quality: the best candidates of each ground-truth box are foreground whatever their IoU, as long as
            they overlap it.
        crowd_thresh: background that overlaps a crowd by at least this IoU is ignored, because there may well be an
            object; null: crowds mean nothing. Needs data that keep their crowds (``data.keep_crowd``).
        low_quality_ties: all candidates with a box's best IoU are its best; false: the first of them alone
            (pytorch-mask-rcnn). A small object lies wholly inside many anchors, which are then all equally good.

    Raises:
        ValueError: the background threshold is above the foreground threshold, or a crowd threshold of 0 or less.
    """

    background_thresh: Fraction = 0.5
    foreground_thresh: Fraction = 0.5
    allow_low_quality: bool = False
    crowd_thresh: Share | None = None
    low_quality_ties: bool = True
    crowd_option: ClassVar[str] = "crowd_thresh"  # see Assigner

    def __post_init__(self) -> None:
        if not 0 <= self.background_thresh <= self.foreground_thresh:
            raise ValueError(
                f"matcher: background_thresh ({self.background_thresh}) must not be above "
                f"foreground_thresh ({self.foreground_thresh})"
            )
        if self.crowd_thresh is not None and not self.crowd_thresh > 0:
            raise ValueError(f"matcher: expected a crowd_thresh above 0, or null, got {self.crowd_thresh}")

    def label(self, boxes: Boxes, target: Instances, num_classes: int) -> Instances:
        """Says of N boxes what they should be classified as, and where they should end.

        Returns:
            ``Instances`` of the target's image: ``boxes``, ``classes`` (``num_classes`` is background, -1 is ignored),
            ``gt_index`` (the row of the target that each was matched to) and ``gt_boxes``. Without ground truth
            ``gt_boxes`` are zeros.
        """
        rows, labels = self.match(boxes, target)
        return Instances(
            target.image_size,
            info=target.info,
            boxes=boxes,
            classes=matched_classes(target, rows, labels, num_classes),
            gt_index=rows,
            gt_boxes=matched_boxes(target, rows),
        )

    def match(self, boxes: Boxes, target: Instances) -> tuple[Tensor, Tensor]:
        """Matches N boxes to the objects of a target, and to its crowds where those count.

        The result is that of ``__call__`` on all IoUs. They are computed for a part of the boxes at a time, so that a
        thousand objects on all anchors of a large image take megabytes and not gigabytes.

        Returns:
            As ``__call__``.
        """
        matches, labels = self._match(target.boxes.tensor, boxes.tensor)
        crowds = target.info.crowds
        if self.crowd_thresh is not None and crowds is not None and len(crowds):
            parts = boxes.tensor.split(_rows_at_once(len(crowds)))
            on_crowd = torch.cat([pairwise_iou(crowds.tensor, part).amax(dim=0) for part in parts]) >= self.crowd_thresh
            labels.masked_fill_((labels == 0) & on_crowd, -1)
        return matches, labels

    def _match(self, truth: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """``__call__`` on the IoU of ``(G, 4)`` with ``(N, 4)`` boxes."""
        step = _rows_at_once(len(truth))
        if len(boxes) <= step or len(truth) == 0:
            return self(pairwise_iou(truth, boxes))
        parts, best = boxes.split(step), boxes.new_empty(len(boxes))
        matches = torch.empty(len(boxes), dtype=torch.int64, device=boxes.device)
        # In each part, of each ground-truth box: which candidate is its best, and that IoU. All that stays is made
        # before the loop, because what is put between large parts that come and go leaves holes in the memory.
        places = torch.empty((len(parts), len(truth)), dtype=torch.int64, device=boxes.device)
        tops = boxes.new_empty((len(parts), len(truth)))
        for number, (part, *out) in enumerate(zip(parts, best.split(step), matches.split(step))):
            iou = pairwise_iou(truth, part)
            torch.max(iou, dim=0, out=tuple(out))
            if self.allow_low_quality:
                torch.amax(iou, dim=1, out=tops[number])
                torch.argmax(iou, dim=1, out=places[number])  # the first of equals, which max need not give
        labels = self._labels(best, matches)
        if self.allow_low_quality:
            self._mark_best(labels.split(step), truth, parts, places, tops)
        return matches, labels

    def _mark_best(
        self, labels: Sequence[Tensor], truth: Tensor, parts: Sequence[Tensor], places: Tensor, tops: Tensor
    ) -> None:
        """Makes each box's best candidates foreground in the parts of ``labels``.

        ``places`` and ``tops`` are ``(parts, G)``: a box's best candidate in each part, and its IoU.
        """
        top, first = tops.max(dim=0).values, tops.argmax(dim=0)  # argmax is the first part of equally good ones
        for number, (label, part) in enumerate(zip(labels, parts)):
            if self.low_quality_ties:
                rows = torch.nonzero((tops[number] == top) & (top > 0)).squeeze(1)  # few have their best here
                if len(rows):
                    label.masked_fill_((pairwise_iou(truth[rows], part) == top[rows, None]).any(dim=0), 1)
            else:
                label.index_fill_(0, places[number][first == number], 1)

    def __call__(self, iou: Tensor) -> tuple[Tensor, Tensor]:
        """Matches candidates by their IoUs with the ground truth.

        Args:
            iou: ``(G, N)``: ground truth by candidates.

        Returns:
            ``(N,)`` index of the best ground truth (0 where there is none) and ``(N,)`` int8 labels: 1 foreground,
            0 background, -1 ignored.
        """
        if iou.shape[0] == 0:
            empty = torch.zeros(iou.shape[1], dtype=torch.int64, device=iou.device)
            return empty, empty.to(torch.int8)
        best, matches = iou.max(dim=0)
        labels = self._labels(best, matches)
        if self.allow_low_quality and not self.low_quality_ties:
            labels.index_fill_(0, iou.argmax(dim=1), 1)
        elif self.allow_low_quality:
            best_per_box = iou.max(dim=1, keepdim=True).values
            # Detectron2 and torchvision take 0 for a best IoU too: all that overlap nothing are foreground then.
            labels.masked_fill_(((iou == best_per_box) & (best_per_box > 0)).any(dim=0), 1)
        return matches, labels

    def _labels(self, best: Tensor, matches: Tensor) -> Tensor:
        """``(N,)`` int8 labels by each candidate's best IoU alone."""
        labels = torch.full_like(matches, -1, dtype=torch.int8)
        labels.masked_fill_(best < self.background_thresh, 0)
        return labels.masked_fill_(best >= self.foreground_thresh, 1)


def matched_classes(target: Instances, rows: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """``(S,)`` classes by the target's rows and labels, see ``Matcher``: ``num_classes`` is background, -1 ignored."""
    classes = torch.full_like(rows, num_classes)
    if len(target):
        classes = torch.where(labels == 1, target.classes[rows], classes)
    return classes.masked_fill(labels == -1, -1)


def matched_boxes(target: Instances, rows: Tensor) -> Boxes:
    """``(S, 4)`` boxes of the target's rows; zeros where it has none."""
    return target.boxes[rows] if len(target) else Boxes(target.boxes.tensor.new_zeros((len(rows), 4)))


def _rows_at_once(num_others: int) -> int:
    """How many boxes are compared with ``num_others`` others at a time."""
    return max(1, box_ops.PAIRS_AT_ONCE // max(1, num_others))
