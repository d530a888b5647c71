"""Non-maximum suppression."""

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_thresh: float) -> Tensor:
    """Greedy NMS within each group (class or feature level): torchvision's operator, on plain tensors.

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
