import pytest
import torch
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from detkit.layers import crop_and_resize
from detkit.structures import BitMasks, Boxes, CroppedMasks, PolygonMasks

H, W = 60, 80
BOXES = Boxes([[3.3, 4.4, 44.0, 50.0], [10, 20, 38, 48], [60.2, 1.7, 79.9, 33.3], [0, 0, 0.4, 59]])
METHODS = ["roi_align", "roi_align_unaligned", "crop_and_resize"]


def bitmaps():
    return BitMasks(torch.rand(4, H, W) < 0.4)


def polygons():
    parts = [
        [5, 5, 60, 8, 40, 50],
        [12, 20, 36, 22, 30, 47, 15, 40],
        [50, 0, 80, 0, 80, 40, 50, 40],
        [0, 0, 9, 0, 9, 50],
    ]
    return PolygonMasks([[p] for p in parts], (H, W))


@pytest.mark.parametrize("size", [14, 28])
def test_unaligned_equals_torchvisions_mask_targets(size):
    masks = bitmaps()
    expected = project_masks_on_boxes(masks.tensor, BOXES.tensor, torch.arange(4), size)
    got = masks.crop_and_resize(BOXES, size, "roi_align_unaligned", binary=False)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)
    rough = masks.crop_and_resize(BOXES, size, "roi_align_unaligned")
    assert rough.dtype == torch.bool
    assert torch.equal(rough, expected >= 0.5)
    assert not torch.equal(got, masks.crop_and_resize(BOXES, size, "roi_align", binary=False))
    of_polygons = project_masks_on_boxes(polygons().bitmaps().tensor, BOXES.tensor, torch.arange(4), size)
    assert torch.equal(polygons().crop_and_resize(BOXES, size, "roi_align_unaligned", False), of_polygons)


@pytest.mark.parametrize("method", METHODS)
def test_shares_of_cells_are_those_of_the_bitmaps_whatever_the_kind(method):
    masks = polygons()
    shares = masks.bitmaps().crop_and_resize(BOXES, 14, method, binary=False)
    assert ((shares > 0) & (shares < 1)).any()
    for other in (masks, CroppedMasks.around(masks)):
        assert torch.equal(other.crop_and_resize(BOXES, 14, method, binary=False), shares)


def test_crop_and_resize_samples_the_boxs_corners():
    """The reference divides a box by (W, H), the operator multiplies by (W - 1, H - 1): of a ramp it reads x / W."""
    x = torch.linspace(0, 1, W).expand(1, H, W)
    box = torch.tensor([[8.0, 6, 72, 48]])
    read = crop_and_resize(x[:, None], box / torch.tensor([W, H, W, H]), torch.zeros(1, dtype=torch.long), 5)
    assert torch.allclose(read[0, 0, 0], torch.linspace(8 / W, 72 / W, 5), atol=1e-6)

    step = BitMasks((torch.arange(W) >= 40).expand(1, H, W))  # 0 up to pixel 39, 1 from pixel 40
    values = step.crop_and_resize(Boxes([[0, 0, W, H]]), W, "crop_and_resize", binary=False)
    assert torch.equal(values[0, 0], step.tensor[0, 0].float()), "a box of the whole image gives the image"
    rows = step.crop_and_resize(Boxes([[20, 0, 60, H]]), 5, "crop_and_resize", binary=False)[0]
    at = torch.linspace(20, 60, 5) / W * (W - 1)
    assert torch.allclose(rows[0], (at - 39).clamp(0, 1))


def test_crop_and_resize_rounds_a_half_down_and_is_empty_outside():
    half = BitMasks([[[0, 1], [0, 1]]])
    box = Boxes([[0.5, 0.5, 1.5, 1.5]])  # in the operator's coordinates 0.25 to 0.75 of the only step
    assert half.crop_and_resize(box, 3, "crop_and_resize", False)[0, 0].tolist() == [0.25, 0.5, 0.75]
    assert half.crop_and_resize(box, 3, "crop_and_resize")[0, 0].tolist() == [False, False, True]
    full = BitMasks(torch.ones(1, H, W))
    out = full.crop_and_resize(Boxes([[-W, 0, W, H]]), 9, "crop_and_resize")[0]
    assert not out[:, :4].any()
    assert out[:, 4:].all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "make", [bitmaps, polygons, lambda: CroppedMasks.mini(polygons())], ids=["bit", "polygon", "mini"]
)
def test_every_kind_takes_every_method(make, method):
    masks = make()
    rough, soft = masks.crop_and_resize(BOXES, 7, method), masks.crop_and_resize(BOXES, 7, method, binary=False)
    assert rough.shape == soft.shape == (4, 7, 7)
    assert rough.dtype == torch.bool
    assert soft.dtype == torch.float32
    assert soft.min() >= 0
    assert soft.max() <= 1 + 1e-6
    sure = (soft - 0.5).abs() > 1e-6
    agreement = (rough == (soft > 0.5))[sure].float().mean()
    rasterised = isinstance(masks, PolygonMasks) and method == "roi_align"  # inside the box, by COCO's rule
    assert agreement >= (0.9 if rasterised else 1)
    for rows in (slice(0, 0), slice(1, 3)):
        assert torch.equal(masks[rows].crop_and_resize(BOXES[rows], 7, method, False), soft[rows])
    with pytest.raises(ValueError, match="4 masks but 1 boxes"):
        masks.crop_and_resize(BOXES[:1], 7, method)


@pytest.mark.parametrize("method", METHODS)
def test_kinds_agree_about_large_objects(method):
    shapes, boxes = polygons()[:3], polygons()[:3].boxes()
    wider = Boxes(boxes.tensor + torch.tensor([-4.0, -3, 3, 4]))
    for places in (boxes, wider):
        whole = shapes.bitmaps().crop_and_resize(places, 28, method)
        for other in (shapes, CroppedMasks.mini(shapes)):
            cut = other.crop_and_resize(places, 28, method)
            ious = (whole & cut).flatten(1).sum(1) / (whole | cut).flatten(1).sum(1)
            assert ious.min() > 0.85
