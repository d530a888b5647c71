"""Mask pasting: box-sized mask probabilities to image-sized bitmaps."""

import torch
from torch import Tensor
from torch.nn import functional as F


def paste_masks(probs: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Resamples each M x M mask to its box and thresholds it (Detectron2's convention).

    Mask pixels are squares whose centres lie at (i + 0.5) / M of the box; outside the box a mask is 0. Only the
    window around each box is computed, so the cost follows the boxes' areas and not the image's.

    Args:
        probs: ``(N, M, M)`` in 0..1.
        boxes: ``(N, 4)`` xyxy in pixels of the image.
        image_size: ``(height, width)``.
        threshold: a pixel belongs to the object from this probability on.

    Returns:
        ``(N, height, width)`` bool.
    """
    height, width = image_size
    out = torch.zeros((len(probs), height, width), dtype=torch.bool, device=probs.device)
    windows = torch.as_tensor(boxes, dtype=torch.float32)
    low = (windows[:, :2].floor() - 1).clamp(min=0).long().tolist()
    high = (windows[:, 2:].ceil() + 1).long().tolist()
    for i, ((left, top), (right, bottom)) in enumerate(zip(low, high)):
        right, bottom = min(right, width), min(bottom, height)
        if right <= left or bottom <= top:
            continue
        x1, y1, x2, y2 = windows[i].unbind()
        xs = (torch.arange(left, right, device=probs.device) + 0.5 - x1) / (x2 - x1) * 2 - 1
        ys = (torch.arange(top, bottom, device=probs.device) + 0.5 - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack([xs[None, :].expand(len(ys), -1), ys[:, None].expand(-1, len(xs))], dim=2)
        value = F.grid_sample(probs[i][None, None].float(), grid[None], align_corners=False)[0, 0]
        out[i, top:bottom, left:right] = value >= threshold
    return out
