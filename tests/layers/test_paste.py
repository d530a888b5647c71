"""Mask pasting: against resampling over the whole image, and analytically."""

import pytest
import torch
from torch.nn import functional as F

from detkit.layers import paste_in_regions


def paste_masks(probs: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """Laid out in the whole image: ``(N, height, width)``."""
    out = torch.zeros(len(probs), *image_size, dtype=torch.bool)
    for image, bitmap, (x1, y1, x2, y2) in zip(out, *paste_in_regions(probs, boxes, image_size)):
        image[y1:y2, x1:x2] = bitmap
    return out


def paste_everywhere(probs: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The definition without regions: every pixel of the image is looked up in every mask."""
    x1, y1, x2, y2 = (v[:, None] for v in boxes.unbind(1))
    xs = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * 2 - 1
    ys = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * 2 - 1
    n = len(boxes)
    grid = torch.stack([xs[:, None, :].expand(n, height, width), ys[:, :, None].expand(n, height, width)], dim=3)
    return F.grid_sample(probs[:, None], grid, align_corners=False)[:, 0] >= 0.5


def test_regions_change_nothing():
    corner = torch.rand(40, 2) * 60 - 10
    boxes = torch.cat([corner, corner + 0.5 + torch.rand(40, 2) * 50], dim=1)
    probs = torch.rand(40, 14, 14)
    assert torch.equal(paste_masks(probs, boxes, (50, 70)), paste_everywhere(probs, boxes, 50, 70))


def test_a_full_mask_fills_its_box():
    mask = paste_masks(torch.ones(1, 28, 28), torch.tensor([[10.0, 5.0, 30.0, 25.0]]), (40, 40))[0]
    wanted = torch.zeros(40, 40, dtype=torch.bool)
    wanted[5:25, 10:30] = True
    assert torch.equal(mask, wanted)


def test_half_a_mask_fills_half_its_box():
    probs = torch.zeros(1, 28, 28)
    probs[:, :, :14] = 1
    mask = paste_masks(probs, torch.tensor([[0.0, 0.0, 56.0, 56.0]]), (56, 56))[0]
    assert mask[:, :28].all()
    assert not mask[:, 28:].any()


def test_boxes_outside_the_image_and_no_boxes():
    outside = paste_masks(torch.ones(2, 7, 7), torch.tensor([[90.0, 90, 99, 99], [-9, -9, -2, -2]]), (20, 20))
    assert not outside.any()
    assert paste_masks(torch.zeros(0, 7, 7), torch.zeros(0, 4), (20, 30)).shape == (0, 20, 30)


@pytest.mark.parametrize("size", [14, 28])
def test_pasting_what_was_cropped_gives_it_back(size):
    from detkit.structures import BitMasks, Boxes

    yy, xx = torch.meshgrid(torch.arange(100), torch.arange(120), indexing="ij")
    masks = BitMasks(((xx - 60) ** 2 / 40**2 + (yy - 50) ** 2 / 30**2 < 1)[None])
    boxes = Boxes([[19.0, 19.0, 101.0, 81.0]])
    pasted = paste_masks(masks.crop_and_resize(boxes, size).float(), boxes, (100, 120))
    iou = (pasted & masks).sum() / (pasted | masks).sum()
    assert iou > {14: 0.93, 28: 0.97}[size]
