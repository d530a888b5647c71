"""Matcher: which ground-truth box a proposal or an anchor belongs to."""

import dataclasses

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detkit.structures import Boxes, Instances


@dataclasses.dataclass(frozen=True)
class Matcher:
    """Matches by IoU (Faster R-CNN, Ren et al. 2015, section 3.1.2).

    Args:
        background_thresh: a candidate whose best IoU is below this is background.
        foreground_thresh: from this IoU on it is foreground; in between it is ignored.
        allow_low_quality: the best candidates of each ground-truth box are foreground whatever their IoU.
        crowd_thresh: background that overlaps a crowd by at least this IoU is ignored, because there may well be an
            object; null: crowds mean nothing. Needs data that keep their crowds (``data.keep_crowd``).
        low_quality_ties: all candidates with a box's best IoU are its best; false: the first of them alone
            (pytorch-mask-rcnn). A small object lies wholly inside many anchors, which are then all equally good.

    Raises:
        ValueError: the background threshold is above the foreground threshold, or a crowd threshold of 0 or less.
    """

    background_thresh: float = 0.5
    foreground_thresh: float = 0.5
    allow_low_quality: bool = False
    crowd_thresh: float | None = None
    low_quality_ties: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.background_thresh <= self.foreground_thresh:
            raise ValueError(
                f"matcher: background_thresh ({self.background_thresh}) must not be above "
                f"foreground_thresh ({self.foreground_thresh})"
            )
        if self.crowd_thresh is not None and not self.crowd_thresh > 0:
            raise ValueError(f"matcher: expected a crowd_thresh above 0, or null, got {self.crowd_thresh}")

    def match(self, boxes: Boxes, target: Instances) -> tuple[Tensor, Tensor]:
        """Matches N boxes to the objects of a target, and to its crowds where those count.

        Returns:
            As ``__call__``.
        """
        matches, labels = self(box_iou(target.boxes, boxes))
        crowds = target.info.crowds
        if self.crowd_thresh is not None and crowds is not None and len(crowds):
            on_crowd = box_iou(crowds, boxes).amax(dim=0) >= self.crowd_thresh
            labels[(labels == 0) & on_crowd] = -1
        return matches, labels

    def __call__(self, iou: Tensor) -> tuple[Tensor, Tensor]:
        """
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
        labels = torch.full_like(matches, -1, dtype=torch.int8)
        labels[best < self.background_thresh] = 0
        labels[best >= self.foreground_thresh] = 1
        if self.allow_low_quality and not self.low_quality_ties:
            labels[iou.argmax(dim=1)] = 1
        elif self.allow_low_quality:
            best_of_box = iou.max(dim=1, keepdim=True).values
            labels[(iou == best_of_box).any(dim=0)] = 1
        return matches, labels
