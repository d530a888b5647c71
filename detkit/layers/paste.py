"""Mask pasting: box-sized mask probabilities to bitmaps, each of the region of its image that its box is in."""

import torch
from torch import Tensor
from torch.nn import functional as F

Region = tuple[int, int, int, int]
"""``(x1, y1, x2, y2)`` in whole pixels, half-open, within the image; all 0 where nothing of the box is in it."""
CHUNK_PIXELS = 2**17
"""Pixels that are looked up at a time: what is computed of them stays in the processor's cache."""


def paste_in_regions(
    probs: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float = 0.5
) -> tuple[list[Tensor], list[Region]]:
    """Resamples each M x M mask to its box and thresholds it (Detectron2's convention).

    Mask pixels are squares whose centres lie at (i + 0.5) / M of the box; outside the box a mask is 0. Only the
    region around each box is computed and kept, so the cost follows the boxes' areas and not the image's.

    Args:
        probs: ``(N, M, M)`` in 0..1.
        boxes: ``(N, 4)`` xyxy in pixels of the image.
        image_size: ``(height, width)``.
        threshold: a pixel belongs to the object from this probability on.

    Returns:
        N bitmaps ``(h, w)`` bool, and the regions of the image that they fill.
    """
    height, width = image_size
    corners = torch.as_tensor(boxes, dtype=torch.float32)
    low = (corners[:, :2].floor() - 1).clamp(min=0).long().tolist()
    high = (corners[:, 2:].ceil() + 1).long().tolist()
    columns = torch.arange(width, device=probs.device) + 0.5
    rows = torch.arange(height, device=probs.device) + 0.5
    bitmaps: list[Tensor] = []
    regions: list[Region] = []
    for i, ((left, top), (right, bottom)) in enumerate(zip(low, high)):
        right, bottom = min(right, width), min(bottom, height)
        if right <= left or bottom <= top:
            bitmaps.append(probs.new_zeros((0, 0), dtype=torch.bool))
            regions.append((0, 0, 0, 0))
            continue
        x1, y1, x2, y2 = corners[i].unbind()
        xs = (columns[left:right] - x1) / (x2 - x1) * 2 - 1
        ys = (rows[top:bottom] - y1) / (y2 - y1) * 2 - 1
        strips = ys.split(max(1, CHUNK_PIXELS // len(xs)))
        bitmaps.append(torch.cat([_sampled(probs[i], xs, strip) >= threshold for strip in strips]))
        regions.append((left, top, right, bottom))
    return bitmaps, regions


def _sampled(mask: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    grid = torch.stack([xs[None, :].expand(len(ys), -1), ys[:, None].expand(-1, len(xs))], dim=2)
    return F.grid_sample(mask[None, None].float(), grid[None], align_corners=False)[0, 0]
