"""How far two models agree: the detections of one as ground truth for those of the other."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detkit.structures import Instances

SAME_OBJECT = 0.5
"""IoU from which two boxes of a class are taken for one object."""


def agreement(truth: Sequence[Instances], found: Sequence[Instances]) -> dict[str, Any]:
    """Detections of each class are paired, the best overlap first.

    Returns:
        ``matched``: the share of the true ones that have a partner, and over those the mean IoU of boxes and, where
        there are any, masks (in pixels), and the largest difference of scores.
    """
    boxes: list[Tensor] = []
    masks: list[Tensor] = []
    scores: list[Tensor] = []
    for mine, theirs in zip(truth, found, strict=True):
        rows, columns = pairs(mine, theirs)
        boxes.append(box_iou(mine.boxes, theirs.boxes)[rows, columns])
        scores.append((mine.scores[rows] - theirs.scores[columns]).abs())
        if "masks" in mine:
            masks.append(_mask_iou(mine.masks.bitmaps().tensor[rows], theirs.masks.tensor[columns]))
    total = sum(len(mine) for mine in truth)
    result = {"matched": len(torch.cat(boxes)) / max(total, 1), "box IoU": float(torch.cat(boxes).mean())}
    if masks:
        result["mask IoU"] = float(torch.cat(masks).mean())
    return result | {"largest score difference": float(torch.cat(scores).max()) if total else 0.0}


def pairs(truth: Instances, found: Instances) -> tuple[Tensor, Tensor]:
    """Rows of both sides that are one object: of one class, and nearer to each other than to what is left."""
    iou = box_iou(truth.boxes, found.boxes) * (truth.classes[:, None] == found.classes)
    rows, columns = [], []
    for flat in iou.flatten().argsort(descending=True).tolist():
        row, column = divmod(flat, len(found))
        if iou[row, column] < SAME_OBJECT:
            break
        if row not in rows and column not in columns:
            rows.append(row)
            columns.append(column)
    return torch.tensor(rows, dtype=torch.long), torch.tensor(columns, dtype=torch.long)


def _mask_iou(a: Tensor, b: Tensor) -> Tensor:
    both, either = (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)
