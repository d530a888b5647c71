import pickle

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.ops import masks_to_boxes

from detkit.structures import BitMasks, Boxes, CropAndPad, Flip, Instances, Masks, PolygonMasks, Resize, polygon_masks
from detkit.structures.polygon_masks import clip_polygon
from detkit.structures.rle import checked_rle, rle_counts

H, W = 60, 80


def blob(rng, cx, cy, r, n=12):
    """A star-shaped polygon without self-intersections."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, n))
    radius = r * rng.uniform(0.6, 1.0, n)
    return np.stack([cx + radius * np.cos(angle), cy + radius * np.sin(angle)], 1).reshape(-1)


@pytest.fixture
def polygons():
    rng = np.random.default_rng(0)
    return PolygonMasks(
        [
            [blob(rng, 30, 30, 20)],
            [blob(rng, 15, 15, 10), blob(rng, 60, 40, 12)],
            [np.array([50.0, 5, 70.5, 5, 70.5, 25.25, 50, 25.25])],
            [],
        ],
        (H, W),
    )


def iou(a, b):
    a, b = torch.as_tensor(np.asarray(a)), torch.as_tensor(np.asarray(b))
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def resized(masks, size):
    return masks.transform(Resize((H, W), size))


def random_bitmaps(n=5, p=0.3):
    return BitMasks(torch.rand(n, H, W) < p)


def test_both_kinds_are_masks(polygons):
    assert isinstance(polygons, Masks)
    assert isinstance(random_bitmaps(), Masks)


def test_bitmaps_work_as_a_bool_tensor():
    masks = random_bitmaps()
    assert masks.dtype == torch.bool
    assert masks.shape == (5, H, W)
    assert masks.numpy().dtype == bool
    assert type(masks & masks) is torch.Tensor
    assert masks[0].shape == (H, W)
    assert type(masks[:, 3:5]) is torch.Tensor
    assert BitMasks(np.full((1, 2, 2), 255, np.uint8)).all()
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        BitMasks(torch.zeros(3, 3))


@pytest.mark.parametrize(
    "item", [slice(1, 3), torch.tensor([2, 0]), np.array([3, 1]), torch.tensor([True, False, True, False])]
)
def test_rows_are_indexed_alike(polygons, item):
    bitmaps = polygons.bitmaps()
    assert isinstance(bitmaps[item], BitMasks)
    assert isinstance(polygons[item], PolygonMasks)
    assert torch.equal(polygons[item].bitmaps().tensor, bitmaps[item].tensor)


def test_bool_array_indexes_rows(polygons):
    keep = np.array([False, True, False, True])
    assert torch.equal(polygons[keep].bitmaps().tensor, polygons.bitmaps()[keep].tensor)


def test_polygons_rasterise_as_pycocotools(polygons):
    bitmaps = polygons.bitmaps().numpy()
    for row, parts in zip(bitmaps, polygons.polygons):
        if parts:
            rles = coco_mask.frPyObjects([p.reshape(-1).tolist() for p in parts], H, W)
            assert (row == coco_mask.decode(coco_mask.merge(rles)).astype(bool)).all()
        else:
            assert not row.any()


def test_tight_boxes_equal_torchvision():
    masks = random_bitmaps(p=0.001)
    masks = masks[masks.tensor.flatten(1).any(1)]
    expected = masks_to_boxes(masks.tensor)
    expected[:, 2:] += 1  # torchvision's are inclusive
    assert torch.equal(masks.boxes().tensor, expected)
    assert isinstance(masks.boxes(), Boxes)
    assert BitMasks(torch.zeros(1, H, W)).boxes().tolist() == [[0, 0, 0, 0]]
    assert BitMasks(torch.zeros(0, H, W)).boxes().shape == (0, 4)


def test_polygon_boxes_surround_bitmap_boxes_within_a_pixel(polygons):
    exact, raster = polygons.boxes().tensor, polygons.bitmaps().boxes().tensor
    assert (exact - raster).abs().max() <= 1
    assert exact[3].tolist() == [0, 0, 0, 0]


def test_areas(polygons):
    assert polygons.areas()[2] == pytest.approx(20.5 * 20.25)
    assert polygons.areas()[3] == 0
    raster = polygons.bitmaps().areas()
    assert torch.allclose(raster[:3], polygons.areas()[:3], rtol=0.05)
    encoded = polygons.rle()
    assert raster.tolist() == coco_mask.area(encoded).tolist()


def test_rle_round_trips(polygons):
    for masks in (polygons, random_bitmaps(), random_bitmaps(p=0.999), BitMasks(torch.zeros(0, H, W))):
        rles = masks.rle()
        assert all(isinstance(r["counts"], str) for r in rles)
        decoded = [coco_mask.decode(checked_rle(rle, (H, W))) for rle in rles]
        assert torch.equal(torch.tensor(np.array(decoded)).reshape(-1, H, W).bool(), masks.bitmaps().tensor)


def test_rle_counts_invert_pycocotools_and_both_forms_agree():
    for p in (0.0, 0.001, 0.5, 0.999, 1.0):
        mask = (np.random.default_rng(1).random((H, W)) < p).astype(np.uint8)
        rle = coco_mask.encode(np.asfortranarray(mask))
        runs = rle_counts(rle["counts"])
        flat = np.repeat(np.arange(len(runs)) % 2, runs)
        assert (mask == flat.reshape(W, H).T).all()
        assert checked_rle({"size": [H, W], "counts": runs.tolist()}, (H, W))["counts"] == rle["counts"]


@pytest.mark.parametrize(
    ("rle", "words"),
    [
        ({"size": [W, H], "counts": [H * W]}, "its image of"),
        ({"size": [H, W], "counts": [5, 6]}, "sum up to 11"),
        ({"size": [H, W], "counts": [H * W + 5, -5]}, "a run of -5"),
        ({"size": [H, W], "counts": "\x01\x02"}, "not a compressed RLE"),
        ({"size": [H, W], "counts": ""}, "sum up to 0"),
        ({"size": [H, W], "counts": "o" * 40}, "compressed"),
        ({"size": [H, W], "counts": [0.5]}, "integers"),
        ({"counts": "a"}, "'size' and 'counts'"),
    ],
)
def test_malformed_rle_is_refused_before_it_is_decoded(rle, words):
    with pytest.raises(ValueError, match=words):
        checked_rle(rle, (H, W))


@pytest.mark.parametrize("size", [(120, 160), (30, 40), (90, 60)])
def test_resize_commutes_with_rasterising(polygons, size):
    first = resized(polygons[:3], size)
    assert first.image_size == size
    for a, b in zip(first.bitmaps(), resized(polygons[:3].bitmaps(), size)):
        assert iou(a, b) > 0.8


def test_bitmap_resize_is_nearest_exact():
    masks = random_bitmaps()
    expected = torch.nn.functional.interpolate(masks.tensor[None].float(), (37, 113), mode="nearest-exact")[0]
    assert torch.equal(resized(masks, (37, 113)).tensor, expected.bool())


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_flip(polygons, direction):
    masks, flip = random_bitmaps(), Flip((H, W), direction)
    assert torch.equal(masks.transform(flip).transform(flip).tensor, masks.tensor)
    dim = 2 if direction == "horizontal" else 1
    assert torch.equal(masks.transform(flip).tensor, masks.tensor.flip(dim))
    for a, b in zip(polygons[:3].transform(flip).bitmaps(), polygons[:3].bitmaps().transform(flip)):
        assert iou(a, b) > 0.93


CROPS = [(10, 5, 40, 50), (-20, -10, 100, 150), (30, 20, 60, 100), (0, 0, H, W), (200, 0, 9, 9)]


@pytest.mark.parametrize(("x", "y", "height", "width"), CROPS)
def test_crop_commutes_with_rasterising(polygons, x, y, height, width):
    crop = CropAndPad((H, W), x, y, height, width)
    cut, raster = polygons.transform(crop), polygons.bitmaps().transform(crop)
    assert cut.image_size == raster.image_size == (height, width)
    for a, b in zip(cut.bitmaps(), raster):
        assert iou(a, b) > 0.93 or not (a | b).any()
    padded = np.pad(polygons.bitmaps().numpy(), ((0, 0), (300, 300), (300, 300)))
    assert (raster.numpy() == padded[:, 300 + y : 300 + y + height, 300 + x : 300 + x + width]).all()
    assert (cut.boxes().tensor - raster.boxes().tensor).abs().max() <= 1.001


def test_clipped_concave_polygon_leaves_no_spike():
    # a C whose spine lies left of the region and whose upper arm lies above it
    c = np.array([[-10, -30], [20, -30], [20, -20], [-5, -20], [-5, 25], [20, 25], [20, 35], [-10, 35]], float)
    clipped = clip_polygon(c, (0, 0, 50, 50))
    assert clipped.min(0).tolist() == [0, 25]
    assert clipped.max(0).tolist() == [20, 35]
    assert len(clip_polygon(c, (100, 100, 120, 120))) == 0


def test_crop_and_resize_of_a_whole_number_grid_is_the_crop():
    masks = random_bitmaps(3)
    boxes = Boxes([[0, 0, 28, 28], [10, 20, 38, 48], [52, 32, 80, 60]])
    out = masks.crop_and_resize(boxes, 28)
    for row, mask, (x, y, _, _) in zip(out, masks, boxes.int().tolist()):
        assert torch.equal(row, mask[y : y + 28, x : x + 28])


def test_crop_and_resize_of_polygons_equals_scaling_them_by_hand(polygons):
    boxes = Boxes([[8, 11, 50, 52.5], [5, 4, 70, 50], [45, 0, 72, 30], [0, 0, 10, 10]])
    out = polygons.crop_and_resize(boxes, 28)
    assert out.shape == (4, 28, 28)
    assert out.dtype == torch.bool
    for row, parts, (x1, y1, x2, y2) in zip(out, polygons.polygons, boxes.tolist()):
        moved = [((p - [x1, y1]) * [28 / (x2 - x1), 28 / (y2 - y1)]).reshape(-1).tolist() for p in parts]
        if moved:
            expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(moved, 28, 28)))
            assert (row.numpy() == expected).all()
        else:
            assert not row.any()


def test_crop_and_resize_agrees_between_the_kinds(polygons):
    boxes = polygons[:3].boxes()
    for a, b in zip(polygons[:3].crop_and_resize(boxes, 28), polygons[:3].bitmaps().crop_and_resize(boxes, 28)):
        assert iou(a, b) > 0.8


def test_crop_and_resize_in_chunks_changes_nothing(polygons, monkeypatch):
    bitmaps, boxes = polygons.bitmaps(), Boxes(torch.tensor([[3.3, 4.4, 44.0, 50.0]]).repeat(4, 1))
    whole = bitmaps.crop_and_resize(boxes, 14)
    monkeypatch.setattr("detkit.structures.bit_masks.CHUNK_PIXELS", H * W * 3)
    assert torch.equal(bitmaps.crop_and_resize(boxes, 14), whole)
    assert bitmaps[:0].crop_and_resize(boxes[:0], 14).shape == (0, 14, 14)
    assert polygons[:0].crop_and_resize(boxes[:0], 14).shape == (0, 14, 14)
    for masks in (bitmaps, polygons):
        with pytest.raises(ValueError, match="4 masks but 1 boxes"):
            masks.crop_and_resize(boxes[:1], 14)


def test_cat(polygons):
    masks = random_bitmaps()
    assert torch.equal(BitMasks.cat([masks[:2], masks[2:]]).tensor, masks.tensor)
    both = PolygonMasks.cat([polygons[:1], polygons[1:]])
    assert torch.equal(both.bitmaps().tensor, polygons.bitmaps().tensor)
    with pytest.raises(ValueError, match="one image size"):
        BitMasks.cat([masks, resized(masks, (3, 3))])
    with pytest.raises(ValueError, match="nothing"):
        PolygonMasks.cat([])


def test_polygons_of_two_points_are_refused():
    with pytest.raises(ValueError, match="at least 3 points"):
        PolygonMasks([[[0, 0, 5, 5]]], (H, W))


def test_masks_travel_between_processes(polygons):
    for masks in (polygons, random_bitmaps()):
        again = pickle.loads(pickle.dumps(masks))
        assert type(again) is type(masks)
        assert torch.equal(again.bitmaps().tensor, masks.bitmaps().tensor)


def _identity(batch):
    return batch


def test_masks_come_whole_out_of_loader_workers(polygons):
    items = [Instances((H, W), masks=m) for m in (polygons, random_bitmaps())]
    got = next(iter(DataLoader(items, batch_size=2, num_workers=1, collate_fn=_identity)))
    for a, b in zip(items, got):
        assert type(a.masks) is type(b.masks)
        assert torch.equal(a.masks.bitmaps().tensor, b.masks.bitmaps().tensor)


@pytest.mark.parametrize("corners", [[10, 10, 50, 50, 50, 10, 10, 50], [0, 0, 20, 20, 20, 0, 0, 20]])
def test_a_polygon_whose_sides_cross_is_not_empty(corners):
    masks = PolygonMasks([[corners], [[5, 5, 9, 5, 7, 5]]], (60, 60))
    assert masks.areas().tolist() == [0, 0]
    assert masks.nonempty().tolist() == (masks.bitmaps().areas() > 0).tolist()
    assert masks.nonempty()[0]


@pytest.mark.parametrize("corner", [9e5, -9e5])
def test_a_polygon_that_reaches_far_beyond_takes_no_more_memory_than_one_that_does_not(corner):
    far, near = (PolygonMasks([[[10, 10, c, 10, c, c, 10, c]]], (40, 50)) for c in (corner, np.sign(corner) * 60))
    boxes = Boxes([[9.8, 9.8, 10.3, 10.2]])  # 50 million pixels wide, in pixels of the target
    assert torch.equal(far.crop_and_resize(boxes, 28), near.crop_and_resize(boxes, 28))
    assert far.rle() == near.rle()


def test_a_polygon_of_very_many_points_to_and_fro_is_cut_and_rasterised():
    columns = np.repeat(np.arange(40_000) % 39, 2)
    zigzag = np.stack([columns, np.tile([5.0, 4000, 4000, 5], 20_000)], 1)  # 160 million pixels long
    masks = PolygonMasks([[zigzag]], (40, 50))
    assert int(masks.bitmaps().areas()) <= 40 * 35
    assert masks.crop_and_resize(Boxes([[0, 0, 0.5, 0.5]]), 28).shape == (1, 28, 28)
    cut = masks.transform(CropAndPad((40, 50), 3, 3, 20, 20))
    assert all(np.abs(p).max() <= 20 for p in cut.polygons[0])


@pytest.mark.parametrize("seed", range(20))
def test_spikes_are_removed_as_if_one_by_one(seed):
    points = np.random.default_rng(seed).integers(0, 6, (60, 2)).astype(float)

    def one_by_one(points):
        while len(points) > 2:
            before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
            flat = [(before[:, a] == 0) & (after[:, a] == 0) & (before * after <= 0)[:, 1 - a] for a in (0, 1)]
            if not (flat[0] | flat[1]).any():
                break
            points = np.delete(points, np.flatnonzero(flat[0] if flat[0].any() else flat[1])[0], 0)
        return points

    cut = clip_polygon(np.concatenate([points, [[-1, -1]]]), (0, 0, 6, 6))
    assert len(one_by_one(cut)) == len(cut), "none is left"
    reference, ours = one_by_one(np.repeat(cut, 2, 0)), polygon_masks._without_spikes(np.repeat(cut, 2, 0), 0)
    assert PolygonMasks([[reference]], (6, 6)).rle() == PolygonMasks([[ours]], (6, 6)).rle()
