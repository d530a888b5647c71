"""Non-maximum suppression."""

import torch
from torch import Tensor
from torchvision.ops import nms as _nms


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, iou_thresh: float) -> Tensor:
    """Greedy NMS within each group (class or feature level) in one call.

    Groups are moved apart by more than the extent of all boxes, so that boxes of two groups never overlap;
    the offset is computed in float64 where the device has it, so large coordinates lose nothing.

    Args:
        boxes: ``(N, 4)`` xyxy.
        scores: ``(N,)``.
        groups: ``(N,)`` integer.
        iou_thresh: a box that overlaps a better one of its group by more than this is dropped.

    Returns:
        Indices of the kept boxes, best score first.
    """
    if boxes.numel() == 0:
        return boxes.new_zeros(0, dtype=torch.int64)
    # Apple's GPUs have no float64; offsets of many groups then cost the last bits of a coordinate.
    wide = torch.float32 if boxes.device.type == "mps" else torch.float64
    boxes = torch.as_tensor(boxes).to(wide)
    low = boxes.min()
    extent = boxes.max() - low + 1
    return _nms(boxes - low + (groups.to(wide) * extent)[:, None], scores.to(wide), iou_thresh)
