"""Masks kept in regions: in everything equal to the whole bitmaps, and to pycocotools' encoding of them."""

import copy
import pickle

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from torch.utils.data import DataLoader

from detkit.structures import (
    BitMasks,
    Boxes,
    CropAndPad,
    CroppedMasks,
    Flip,
    Instances,
    Masks,
    ProjectiveTransform,
    Resize,
)

SIZE = (23, 31)
CPU = torch.device("cpu")
TURN = ProjectiveTransform(SIZE, (40, 40), [[0.8, -0.6, 15], [0.6, 0.8, 0], [0, 0, 1]])


def regions_in(size, n, rng):
    """Anywhere, some of one pixel or line, some over the image's whole height or width, all of it, and none."""
    height, width = size
    x, y = np.sort(rng.integers(0, width + 1, (n, 2))), np.sort(rng.integers(0, height + 1, (n, 2)))
    y[rng.random(n) < 0.3] = 0, height
    x[rng.random(n) < 0.2] = 0, width
    regions = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)
    regions[(x[:, 0] == x[:, 1]) | (y[:, 0] == y[:, 1])] = 0
    return [(0, 0, width, height), (0, 0, 0, 0), (width - 1, height - 1, width, height), *map(tuple, regions.tolist())]


def made(size, n, fill, seed=0):
    rng = np.random.default_rng(seed)
    regions = regions_in(size, n, rng)
    bitmaps = [torch.from_numpy(rng.random((y2 - y1, x2 - x1)) < fill) for x1, y1, x2, y2 in regions]
    whole = torch.zeros((len(regions), *size), dtype=torch.bool)
    for mask, bitmap, (x1, y1, x2, y2) in zip(whole, bitmaps, regions):
        mask[y1:y2, x1:x2] = bitmap
    return CroppedMasks.of(bitmaps, regions, size, CPU), BitMasks(whole)


@pytest.mark.parametrize("size", [SIZE, (1, 40), (40, 1), (200, 3), (1, 1)])
@pytest.mark.parametrize("fill", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_rle_areas_and_boxes_are_those_of_the_whole_bitmaps(size, fill):
    masks, whole = made(size, 60, fill)
    encoded = masks.rle()
    assert encoded == whole.rle(), "pycocotools' encoding"
    assert torch.equal(masks.areas(), whole.areas())
    assert torch.equal(masks.boxes().tensor, whole.boxes().tensor)
    assert masks.areas().tolist() == coco_mask.area(encoded).tolist()


def test_long_runs_are_encoded_as_pycocotools_does():
    size = (3000, 2500)
    bitmaps = [torch.ones(3000, 2500, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)]
    masks = CroppedMasks.of(bitmaps, [(0, 0, 2500, 3000), (2499, 2998, 2500, 2999)], size, CPU)
    assert masks.rle() == masks.bitmaps().rle()


def test_it_is_masks_and_an_array_for_numpy():
    masks, whole = made(SIZE, 5, 0.5)
    assert isinstance(masks, Masks)
    assert (masks.shape, len(masks), masks.image_size) == (whole.shape, 8, SIZE)
    assert torch.equal(masks.bitmaps().tensor, whole.tensor)
    assert (masks.numpy() == whole.numpy()).all()
    assert (np.asarray(masks) == whole.numpy()).all()
    assert torch.equal(torch.stack(list(masks)), whole.tensor)
    assert torch.equal(masks[-1], whole[-1])
    assert torch.equal(masks.nonempty(), whole.nonempty())
    boxes = Boxes(torch.tensor([[2.0, 1, 20, 17]]).repeat(8, 1))
    assert torch.equal(masks.crop_and_resize(boxes, 7), whole.crop_and_resize(boxes, 7))
    with pytest.raises(IndexError):
        masks[8]


@pytest.mark.parametrize(
    "transform",
    [Flip(SIZE), Resize(SIZE, (40, 20)), CropAndPad(SIZE, -3, 4, 30, 20), TURN],
    ids=lambda t: type(t).__name__,
)
def test_transformed_as_bitmaps_are(transform):
    masks, whole = made(SIZE, 5, 0.5)
    assert torch.equal(masks.transform(transform).bitmaps().tensor, whole.transform(transform).tensor)


@pytest.mark.parametrize(
    "item",
    [slice(1, 6, 2), torch.tensor([3, 0, 3]), np.array([4, 1]), torch.arange(8) % 3 == 0, np.arange(8) > 5, [2, 7]],
)
def test_rows_are_chosen_as_of_bitmaps(item):
    masks, whole = made(SIZE, 5, 0.5)
    assert isinstance(masks[item], CroppedMasks)
    assert masks[item].rle() == whole[item].rle()
    assert torch.equal(masks[item].bitmaps().tensor, whole[item].tensor)


def _identity(batch):
    return batch


def test_they_travel_as_regions():
    masks, whole = made(SIZE, 5, 0.5)
    workers = DataLoader([Instances(SIZE, masks=masks)], batch_size=1, num_workers=1, collate_fn=_identity)
    copies = [
        pickle.loads(pickle.dumps(masks)),
        copy.deepcopy(masks),
        masks.to("cpu"),
        CroppedMasks.cat([masks[:3], masks[3:]]),
        next(iter(workers))[0].masks,
    ]
    for again in copies:
        assert type(again) is CroppedMasks
        assert len(again.bits) == len(masks.bits)
        assert torch.equal(again.bitmaps().tensor, whole.tensor)
    with pytest.raises(ValueError, match="one image size"):
        CroppedMasks.cat([masks, masks.transform(Resize(SIZE, (3, 3)))])


def test_no_masks():
    masks = CroppedMasks.of([], [], SIZE, CPU)
    assert masks.shape == (0, *SIZE)
    assert masks.rle() == []
    assert masks.areas().shape == (0,)
    assert masks.boxes().shape == (0, 4)
    assert masks[torch.zeros(0, dtype=torch.long)].shape == (0, *SIZE)
    with pytest.raises(ValueError, match="do not fill regions of 6 pixels"):
        CroppedMasks(torch.zeros(5, dtype=torch.bool), torch.tensor([[0, 0, 2, 3]]), SIZE)
