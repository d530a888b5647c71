"""IoU of boxes with boxes, in little memory."""

import torch
from torch import Tensor

PAIRS_AT_ONCE = {"cpu": 2**18}
"""Pairs of boxes whose IoU is held at a time, by the kind of device: on the CPU what stays in the cache, which makes
it several times as fast as all at once."""
PAIRS_ON_GPU = 2**25
"""The same on other devices, which would rather have few large operations: 128 MiB a float32 tensor of them."""


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


def columns_at_once(num_rows: int, device: torch.device) -> int:
    """How many boxes may be compared with ``num_rows`` others at a time."""
    return max(1, PAIRS_AT_ONCE.get(device.type, PAIRS_ON_GPU) // max(1, num_rows))
