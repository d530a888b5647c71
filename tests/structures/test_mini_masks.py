import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from detkit.layers import crop_and_resize
from detkit.structures import BitMasks, Boxes, CropAndPad, CroppedMasks, Flip, Instances, Masks, PolygonMasks, Resize

H, W = 200, 240


def disc(x, y, r, height=H, width=W):
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (rows - y) ** 2 + (columns - x) ** 2 < r**2


def discs():
    ring = disc(150, 80, 60) & ~disc(150, 80, 30)
    empty = np.zeros((H, W), bool)
    return BitMasks(np.stack([disc(60, 60, 50), ring, disc(200, 150, 12), empty, disc(10, 190, 70)]))


def ious(a, b):
    return (a.tensor & b.tensor).flatten(1).sum(1) / (a.tensor | b.tensor).flatten(1).sum(1).clamp(min=1)


def close(mini, whole, least=0.9):
    """Alike up to the cells of a mini-mask; where nothing is, nothing is."""
    there = whole.areas() > 40
    assert (ious(mini.bitmaps(), whole)[there] > least).all()
    assert not mini.bitmaps()[whole.areas() == 0].any()
    return True


def test_it_is_masks_and_gives_back_what_it_was_made_of():
    whole = discs()
    mini = CroppedMasks.mini(whole)
    assert isinstance(mini, Masks)
    assert mini.cells.shape == (5, 56, 56)
    assert mini.image_size == (H, W)
    assert torch.equal(mini.regions, whole.boxes().tensor)
    assert close(mini, whole, 0.97)
    polygon = PolygonMasks([[[20, 20, 120, 30, 80, 150]], []], (H, W))
    assert torch.equal(CroppedMasks.mini(polygon).cells, CroppedMasks.mini(polygon.bitmaps()).cells)


@pytest.mark.parametrize("size", [1, 7, 56])
def test_a_crop_of_ones_stays_all_ones(size):
    """The reference implementation's resize stretched a crop's values to 0..255, and nothing but ones to 0."""
    whole = BitMasks(torch.zeros(3, H, W))
    for mask, (x1, y1, x2, y2) in zip(whole.tensor, [(0, 0, W, H), (30, 40, 31, 41), (100, 20, 117, 190)]):
        mask[y1:y2, x1:x2] = True
    mini = CroppedMasks.mini(whole, size)
    assert mini.cells.all()
    assert torch.equal(mini.bitmaps().tensor, whole.tensor), "and a rectangle is kept exactly"
    assert torch.equal(mini.boxes().tensor, whole.boxes().tensor)
    for method in ("crop_and_resize", "roi_align"):
        assert mini.crop_and_resize(
            Boxes([[60, 60, 90, 90], [30.3, 40.3, 30.7, 40.7], [105, 80, 112, 140]]), 28, method
        ).all()


def test_made_as_an_eight_bit_image_resize_makes_it():
    whole = discs()
    for mini, mask, box in zip(CroppedMasks.mini(whole).cells, whole, whole.boxes().int().tolist()):
        if box[2] > box[0]:
            cut = Image.fromarray(mask[box[1] : box[3], box[0] : box[2]].numpy().astype(np.uint8) * 255)
            resized = np.asarray(cut.resize((56, 56), Image.Resampling.BILINEAR)).astype(int)
            sure = np.abs(resized - 127.5) > 1
            assert (mini.numpy() == (resized >= 128))[sure].all()


def test_regions_are_taken_in_the_mini_masks_own_coordinates():
    """Matterport's: ((y1 - gt_y1) / gt_h, ...) of the mini-mask, by one bilinear sample a cell, rounded."""
    mini = CroppedMasks.mini(discs())[[0, 1, 2]]
    rois = torch.tensor([[20.0, 15, 100, 120], [80, 30, 215, 150], [180, 140, 220, 160]])
    g = mini.regions
    parts = (rois - g[:, :2].repeat(1, 2)) / (g[:, 2:] - g[:, :2]).repeat(1, 2)
    expected = crop_and_resize(mini.cells[:, None].float(), parts, torch.arange(3), 28)[:, 0]
    soft = mini.crop_and_resize(Boxes(rois), 28, "crop_and_resize", binary=False)
    assert torch.allclose(soft, expected, atol=1e-5)
    sure = (expected - 0.5).abs() > 1e-4
    assert torch.equal(mini.crop_and_resize(Boxes(rois), 28, "crop_and_resize")[sure], expected.round().bool()[sure])


@pytest.mark.parametrize("method", ["roi_align", "roi_align_unaligned", "crop_and_resize"])
def test_nothing_lies_beyond_a_mini_masks_box(method):
    mini = CroppedMasks.mini(BitMasks(torch.ones(1, 10, 10))).transform(CropAndPad((10, 10), -50, -50, 200, 200))
    far = mini.crop_and_resize(Boxes([[100, 100, 150, 150]]), 28, method, binary=False)
    assert not far.any()
    around = mini.crop_and_resize(Boxes([[35, 35, 75, 75]]), 28, method)
    assert 0.2**2 < around.float().mean() < 0.3**2  # 10 of 40 pixels a side
    huge = CroppedMasks.mini(BitMasks(torch.eye(2)[None])).crop_and_resize(Boxes([[-1e5, -1e5, 1e5, 1e5]]), 28, method)
    assert huge.sum() <= 1, "and a huge region does no harm"


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_flip(direction):
    whole, mini = discs(), CroppedMasks.mini(discs())
    flip = Flip((H, W), direction)
    assert close(mini.transform(flip), whole.transform(flip), 0.97)
    again = mini.transform(flip).transform(flip)
    assert close(again, whole, 0.95)
    assert torch.equal(again.regions, mini.regions)


@pytest.mark.parametrize("size", [(100, 120), (333, 251), (H, W)])
def test_resize(size):
    resize = Resize((H, W), size)
    mini = CroppedMasks.mini(discs()).transform(resize)
    assert mini.image_size == size
    assert close(mini, discs().transform(resize))


@pytest.mark.parametrize("place", [(30, 20, 100, 150), (-40, -30, 300, 340), (-20, 100, 200, 90), (400, 0, 9, 9)])
def test_crop(place):
    crop = CropAndPad((H, W), *place)
    mini, whole = CroppedMasks.mini(discs()).transform(crop), discs().transform(crop)
    assert mini.image_size == whole.image_size
    assert close(mini, whole)
    assert (mini.boxes().tensor - whole.boxes().tensor).abs().max() <= 3
    back, cut = mini.transform(crop.inverse()), whole.transform(crop.inverse())
    assert close(back, cut), "what was cut off does not come back"


def test_boxes_areas_and_rle_are_those_of_its_bitmaps():
    for mini in (
        CroppedMasks.mini(discs()),
        CroppedMasks.mini(discs()).transform(Resize((H, W), (77, 310))),
        CroppedMasks.mini(discs())[:0],
    ):
        bitmaps = mini.bitmaps()
        assert torch.equal(mini.boxes().tensor, bitmaps.boxes().tensor)
        assert torch.equal(mini.areas(), bitmaps.areas())
        assert mini.rle() == bitmaps.rle()


@pytest.mark.parametrize("item", [slice(1, 3), torch.tensor([2, 0]), np.array([True, False, True, False, True])])
def test_rows(item):
    mini = CroppedMasks.mini(discs())
    assert torch.equal(mini[item].bitmaps().tensor, mini.bitmaps()[item].tensor)
    assert torch.equal(mini[1], mini.bitmaps()[1])
    assert torch.equal(CroppedMasks.cat([mini[:2], mini[2:]]).bitmaps().tensor, mini.bitmaps().tensor)
    with pytest.raises(ValueError, match="one image size"):
        CroppedMasks.cat([mini, CroppedMasks.mini(discs(), 28)])


def test_travels_and_refuses_what_does_not_fit():
    mini = CroppedMasks.mini(discs())
    for again in (pickle.loads(pickle.dumps(mini)), Instances((H, W), masks=mini).to("cpu").masks, mini.to("cpu")):
        assert type(again) is CroppedMasks
        assert torch.equal(again.bitmaps().tensor, mini.bitmaps().tensor)
    with pytest.raises(ValueError, match="do not fill regions of 3136 pixels"):
        CroppedMasks(mini.bits, mini.regions[:1], (H, W), 56)
    with pytest.raises(ValueError, match="at least 1"):
        CroppedMasks.mini(discs(), 0)
