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


@torch.no_grad()
def nms_keep(boxes: Tensor, scores: Tensor, groups: Tensor | None, candidates: Tensor, iou_thresh: float) -> Tensor:
    """Greedy NMS of a whole batch as a mask: of each image what :func:`nms_by_group` keeps of its candidates.

    Args:
        boxes: ``(N, M, 4)`` xyxy, M boxes of each of N images.
        scores: ``(N, M)``. Of equal ones the box that stands first is the better.
        groups: ``(N, M)`` integer; None: all boxes of an image are one group.
        candidates: ``(N, M)`` bool; the others take no part and may hold anything, NaN too.
        iou_thresh: a box that overlaps a better one of its group by more than this is dropped.

    Returns:
        ``(N, M)`` bool, the candidates that are kept.
    """
    boxes, scores = torch.as_tensor(boxes).as_subclass(Tensor).float(), scores.float()
    keep = torch.zeros_like(candidates)
    for image, chosen in enumerate(candidates):
        rows = chosen.nonzero()[:, 0]
        group = None if groups is None else groups[image, rows]
        keep[image, rows[nms_by_group(boxes[image, rows], scores[image, rows], group, iou_thresh)]] = True
    return keep
