"""Mask pasters: against torchvision's function, PIL, and analytically."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detkit.modeling.interfaces import MASK_PASTERS
from detkit.modeling.mask_pasters import ExpandedBoxMaskPaster, GridSampleMaskPaster, ResizeMaskPaster
from detkit.structures import Boxes, CroppedMasks

SIZE = (53, 71)


def some_boxes(n: int, integer: bool = False) -> Boxes:
    """Inside the image, with parts of pixels, some along its rim and some of hardly a pixel."""
    corner = torch.rand(n, 2) * torch.tensor([60.0, 42.0])
    boxes = torch.cat([corner, corner + 0.3 + torch.rand(n, 2) ** 2 * 60], dim=1)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, SIZE[1])
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, SIZE[0])
    return Boxes(boxes.round() if integer else boxes)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
@pytest.mark.parametrize("side", [14, 28])
def test_expanded_box_equals_torchvision(side, threshold):
    probs, boxes = torch.rand(60, side, side), some_boxes(60)
    boxes[0] = torch.tensor([0.0, 0, SIZE[1], SIZE[0]])
    wanted = paste_masks_in_image(probs[:, None], boxes.tensor, SIZE)[:, 0]
    got = ExpandedBoxMaskPaster()(probs, boxes, SIZE, threshold).tensor
    assert got.dtype == torch.bool
    assert torch.equal(got, wanted >= threshold)
    assert torch.equal(got, wanted > threshold), "no pixel happens to be at the threshold"
    assert got.any(dim=(1, 2)).sum() > 50


def test_expanded_box_beyond_the_image_equals_torchvision():
    boxes = Boxes([[-20.0, -9, 30, 20], [50, 30, 95, 80], [-30, -30, 120, 110]])
    probs = torch.rand(3, 28, 28)
    wanted = paste_masks_in_image(probs[:, None], boxes.tensor, SIZE)[:, 0] >= 0.5
    assert torch.equal(ExpandedBoxMaskPaster()(probs, boxes, SIZE, 0.5).tensor, wanted)


@pytest.mark.parametrize("stretch", [False, True])
def test_resize_equals_an_8_bit_image_resized_to_the_box(stretch):
    probs, boxes = torch.rand(40, 28, 28) * 0.6 + 0.2, some_boxes(40, integer=True)
    masks = ResizeMaskPaster(stretch=stretch)(probs, boxes, SIZE, 0.5).tensor
    for mask, p, (x1, y1, x2, y2) in zip(masks, probs.numpy(), boxes.int().tolist()):
        wanted = np.zeros(SIZE, dtype=bool)
        if x2 > x1 and y2 > y1:
            p = (p - p.min()) / (p.max() - p.min()) if stretch else p
            image = Image.fromarray(np.floor(p * 255 + 0.5).astype(np.uint8))
            wanted[y1:y2, x1:x2] = np.asarray(image.resize((x2 - x1, y2 - y1), Image.BILINEAR)) / 255 >= 0.5
        # a byte may fall to the other side where the arithmetic of p differs in its last bit
        assert (mask.numpy() != wanted).sum() <= 0.002 * wanted.size


def test_resize_cuts_boxes_to_whole_pixels():
    probs = torch.ones(1, 28, 28)
    mask = ResizeMaskPaster()(probs, Boxes([[3.9, 5.2, 20.7, 30.99]]), SIZE, 0.5).tensor[0]
    wanted = torch.zeros(SIZE, dtype=torch.bool)
    wanted[5:30, 3:20] = True
    assert torch.equal(mask, wanted)


def test_a_mask_of_one_value_is_not_stretched():
    """SciPy's stretch made a mask of ones a mask of zeros."""
    boxes = Boxes([[4.0, 4, 20, 20]])
    for stretch in (False, True):
        paster = ResizeMaskPaster(stretch=stretch)
        assert paster(torch.ones(1, 28, 28), boxes, SIZE, 0.5).tensor.sum() == 16 * 16
        assert not paster(torch.zeros(1, 28, 28), boxes, SIZE, 0.5).tensor.any()
        assert not paster(torch.full((1, 28, 28), 0.4), boxes, SIZE, 0.5).tensor.any()


def test_a_faint_mask_is_stretched_or_not():
    probs, boxes = torch.full((1, 28, 28), 0.05), Boxes([[4.0, 4, 32, 32]])
    probs[:, :, 14:] = 0.4
    assert ResizeMaskPaster(stretch=True)(probs, boxes, SIZE, 0.5).tensor.sum() == 28 * 14
    assert not ResizeMaskPaster(stretch=False)(probs, boxes, SIZE, 0.5).tensor.any()


@pytest.mark.parametrize("paster", [GridSampleMaskPaster(), ExpandedBoxMaskPaster(), ResizeMaskPaster(stretch=False)])
def test_pasters_agree_about_a_large_smooth_mask(paster):
    yy, xx = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
    probs = torch.sigmoid((100 - (xx - 13.5) ** 2 - (yy - 13.5) ** 2) / 10)[None]
    mask = paster(probs, Boxes([[10.0, 20, 290, 300]]), (320, 300), 0.5)[0]
    yy, xx = torch.meshgrid(torch.arange(320), torch.arange(300), indexing="ij")
    disc = (xx + 0.5 - 150) ** 2 + (yy + 0.5 - 160) ** 2 <= 100**2
    assert (mask & disc).sum() / (mask | disc).sum() > 0.98


def boxes_of_all_kinds() -> Boxes:
    """Inside, over the rim, around the image, outside of it, of a line, of a point, of a pixel, turned inside out."""
    height, width = SIZE
    odd = [
        [0.0, 0, width, height],
        [-30, -20, width + 30, height + 20],
        [-9, 10, -1, 20],
        [width, 5, width + 7, 9],
        [10, -1e3, 40, 1e3],
        [7.2, 7.4, 7.2, 30],
        [7.5, 7.5, 7.5, 7.5],
        [20, 20, 21, 21],
        [30, 30, 20, 20],
    ]
    return Boxes(torch.cat([torch.tensor(odd), some_boxes(40).tensor * 1.4 - 15]))


@pytest.mark.parametrize("name", sorted(MASK_PASTERS.names()))
def test_masks_in_windows_encode_as_pycocotools_encodes_the_whole_ones(name):
    boxes = boxes_of_all_kinds()
    masks = MASK_PASTERS.get(name)()(torch.rand(len(boxes), 28, 28), boxes, SIZE, 0.5)
    assert isinstance(masks, CroppedMasks)
    assert masks.shape == (len(boxes), *SIZE)
    encoded, areas = masks.rle(), masks.areas()
    whole = masks.bitmaps()
    assert encoded == whole.rle()
    assert torch.equal(areas, whole.areas())
    assert areas.count_nonzero() > 20
    none = MASK_PASTERS.get(name)()(torch.rand(0, 28, 28), Boxes([]), SIZE, 0.5)
    assert none.shape == (0, *SIZE)


def test_expanded_boxes_of_all_kinds_equal_torchvision():
    boxes = boxes_of_all_kinds()
    height, width = SIZE
    x1, y1, x2, y2 = boxes.tensor.unbind(1)
    boxes = boxes[(x2 >= x1) & (y2 >= y1) & (x2 > 0) & (y2 > 0) & (x1 < width) & (y1 < height)]  # it fails on others
    probs = torch.rand(len(boxes), 28, 28)
    wanted = paste_masks_in_image(probs[:, None], boxes.tensor, SIZE)[:, 0] >= 0.5
    assert torch.equal(ExpandedBoxMaskPaster()(probs, boxes, SIZE, 0.5).tensor, wanted)


def test_looking_pixels_up_a_strip_at_a_time_changes_nothing(monkeypatch):
    probs, boxes = torch.rand(50, 28, 28), boxes_of_all_kinds()[:49]
    whole = GridSampleMaskPaster()(probs[:49], boxes, SIZE, 0.4).tensor
    for pixels in (1, 300):
        monkeypatch.setattr("detkit.layers.paste.CHUNK_PIXELS", pixels)
        assert torch.equal(GridSampleMaskPaster()(probs[:49], boxes, SIZE, 0.4).tensor, whole)
