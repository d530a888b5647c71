"""Operators on boxes: IoU in little memory, and non-maximum suppression."""

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

PAIRS_AT_ONCE = 2**20
"""Pairs of boxes whose IoU is held at a time: few enough for a processor's cache, enough to keep a GPU busy."""


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """``(A, B)`` IoU of ``(A, 4)`` with ``(B, 4)`` xyxy boxes; NaN where both are without area.

    To the last bit what ``torchvision.ops.box_iou`` gives for float32, without its tensors of two coordinates a pair:
    coordinates are taken one by one and results are written over what they were made from.
    """
    x1, y1, x2, y2 = (side[:, None] for side in boxes.as_subclass(Tensor).t().contiguous())
    left, top, right, bottom = others.as_subclass(Tensor).t().contiguous()
    width = torch.minimum(x2, right).sub_(torch.maximum(x1, left)).clamp_(min=0)
    height = torch.minimum(y2, bottom).sub_(torch.maximum(y1, top)).clamp_(min=0)
    inter = width.mul_(height)
    union = torch.add((x2 - x1) * (y2 - y1), (right - left) * (bottom - top), out=height).sub_(inter)
    return inter.div_(union)


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_thresh: float) -> Tensor:
    """Greedy NMS within each group (class or feature level): torchvision's operator, on tensors of any type.

    Detectron2 and torchvision call the same operator. Where scores are equal its order decides which boxes are kept,
    so another way of grouping would not give their numbers.

    Args:
        boxes: ``(N, 4)`` xyxy.
        scores: ``(N,)``.
        groups: ``(N,)`` integer; None: all boxes are one group.
        iou_thresh: a box that overlaps a better one of its group by more than this is dropped.

    Returns:
        Indices of the kept boxes, best score first.
    """
    boxes, scores = torch.as_tensor(boxes).as_subclass(Tensor).float(), scores.float()
    return nms(boxes, scores, iou_thresh) if groups is None else batched_nms(boxes, scores, groups, iou_thresh)
