"""Made-up boxes for the tests of NMS."""

import torch

from detkit.layers import nms_best


def batch(images: int, each: int, seed: int = 0):
    """Boxes that overlap, tied scores, 3 groups, and about a fifth of the rows no candidates but NaN."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(images, each, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 10 + torch.rand(images, each, 2, generator=generator) * 40], dim=2)
    scores = (torch.rand(images, each, generator=generator) * 20).round() / 20
    groups = torch.randint(0, 3, (images, each), generator=generator)
    candidates = torch.rand(images, each, generator=generator) < 0.8
    boxes[~candidates], scores[~candidates] = float("nan"), float("nan")
    return boxes, scores, groups, candidates


def nms_keep(boxes, scores, groups, candidates, iou_thresh):
    """``(N, M)`` bool: all that ``nms_best`` finds."""
    index, found = nms_best(boxes, scores, groups, candidates, iou_thresh, candidates.shape[1])
    none = torch.zeros(candidates.shape, dtype=torch.uint8, device=candidates.device)
    return none.scatter_reduce(1, index, found.to(none.dtype), "amax").bool()  # empty places repeat an index
