"""Masks kept in windows: in everything equal to the whole bitmaps, and to pycocotools' encoding of them."""

import copy
import pickle

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from torch.utils.data import DataLoader

from detkit.structures import BitMasks, Boxes, BoxMasks, CropAndPad, Flip, Instances, Masks, Resize
from detkit.structures.rle import compress_counts, rle_counts

SIZE = (23, 31)
CPU = torch.device("cpu")


def windows_in(size, n, rng):
    """Anywhere, some of one pixel or line, some over the image's whole height or width, all of it, and none."""
    height, width = size
    x, y = np.sort(rng.integers(0, width + 1, (n, 2))), np.sort(rng.integers(0, height + 1, (n, 2)))
    y[rng.random(n) < 0.3] = 0, height
    x[rng.random(n) < 0.2] = 0, width
    windows = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)
    windows[(x[:, 0] == x[:, 1]) | (y[:, 0] == y[:, 1])] = 0
    return [(0, 0, width, height), (0, 0, 0, 0), (width - 1, height - 1, width, height), *map(tuple, windows.tolist())]


def made(size, n, fill, seed=0):
    rng = np.random.default_rng(seed)
    windows = windows_in(size, n, rng)
    bitmaps = [torch.from_numpy(rng.random((y2 - y1, x2 - x1)) < fill) for x1, y1, x2, y2 in windows]
    whole = torch.zeros((len(windows), *size), dtype=torch.bool)
    for canvas, bitmap, (x1, y1, x2, y2) in zip(whole, bitmaps, windows):
        canvas[y1:y2, x1:x2] = bitmap
    return BoxMasks.of(bitmaps, windows, size, CPU), BitMasks(whole)


@pytest.mark.parametrize("size", [SIZE, (1, 40), (40, 1), (200, 3), (1, 1)])
@pytest.mark.parametrize("fill", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_rle_areas_and_boxes_are_those_of_the_whole_bitmaps(size, fill):
    masks, whole = made(size, 60, fill)
    encoded = masks.rle()
    assert encoded == whole.rle(), "pycocotools' encoding"
    assert torch.equal(masks.areas(), whole.areas())
    assert torch.equal(masks.boxes().tensor, whole.boxes().tensor)
    assert masks.areas().tolist() == coco_mask.area(encoded).tolist()
    assert not masks._whole, "nothing was laid out for it"


def test_many_windows_are_searched_a_few_at_a_time(monkeypatch):
    masks, whole = made(SIZE, 60, 0.5)
    for bits in (1, 50, 700):
        monkeypatch.setattr("detkit.structures.runs.CHUNK_BITS", bits)
        assert masks.rle() == whole.rle()


def test_long_runs_are_encoded_as_pycocotools_does():
    size = (3000, 2500)
    bitmaps = [torch.ones(3000, 2500, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)]
    masks = BoxMasks.of(bitmaps, [(0, 0, 2500, 3000), (2499, 2998, 2500, 2999)], size, CPU)
    assert masks.rle() == masks.bitmaps().rle()


def test_compressing_counts_inverts_reading_them():
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 2 ** rng.integers(1, 31), n) for n in (1, 2, 3, 4, 5, 40, 1)]
    texts = compress_counts(np.concatenate(rows), np.array([len(row) for row in rows]))
    for text, row in zip(texts, rows):
        assert (rle_counts(text.encode()) == row).all()
    assert compress_counts(np.zeros(0, np.int64), np.zeros(0, np.int64)) == []


def test_it_is_a_bool_tensor_for_whoever_takes_one():
    masks, whole = made(SIZE, 5, 0.5)
    assert isinstance(masks, BitMasks)
    assert isinstance(masks, Masks)
    assert (masks.shape, masks.dtype, masks.ndim, len(masks)) == (whole.shape, torch.bool, 3, 8)
    assert masks.image_size == SIZE
    assert not masks._whole
    assert torch.equal(masks, whole)
    assert type(masks & ~masks) is torch.Tensor
    assert (masks.numpy() == whole.numpy()).all()
    assert (np.asarray(masks) == whole.numpy()).all()
    assert masks.tolist() == whole.tolist()
    assert masks.sum() == whole.sum()
    assert torch.equal(torch.stack(list(masks)), whole.tensor)
    assert torch.equal(masks[0], whole[0])
    assert torch.equal(masks[:, 2:9, 3], whole[:, 2:9, 3])
    for transform in (Flip(SIZE), Resize(SIZE, (40, 20)), CropAndPad(SIZE, -3, 4, 30, 20)):
        assert torch.equal(masks.transform(transform).tensor, whole.transform(transform).tensor)
    boxes = Boxes(torch.tensor([[2.0, 1, 20, 17]]).repeat(8, 1))
    assert torch.equal(masks.crop_and_resize(boxes, 7), whole.crop_and_resize(boxes, 7))
    assert torch.equal(BitMasks(masks).tensor, whole.tensor)
    assert masks.to(torch.float32).dtype == torch.bool


@pytest.mark.parametrize("laid_out", [False, True])
@pytest.mark.parametrize(
    "item",
    [slice(1, 6, 2), torch.tensor([3, 0, 3]), np.array([4, 1]), torch.arange(8) % 3 == 0, np.arange(8) > 5, [2, 7]],
)
def test_rows_are_chosen_as_of_bitmaps(item, laid_out):
    masks, whole = made(SIZE, 5, 0.5)
    if laid_out:
        masks.sum()
    assert masks[item].rle() == whole[item].rle()
    assert torch.equal(masks[item].tensor, whole[item].tensor)
    assert laid_out or isinstance(masks[item], BoxMasks)


def _identity(batch):
    return batch


def test_they_travel_as_windows():
    masks, whole = made(SIZE, 5, 0.5)
    workers = DataLoader([Instances(SIZE, masks=masks)], batch_size=1, num_workers=1, collate_fn=_identity)
    copies = [
        pickle.loads(pickle.dumps(masks)),
        copy.deepcopy(masks),
        masks.to("cpu"),
        BoxMasks.cat([masks[:3], masks[3:]]),
        next(iter(workers))[0].masks,
    ]
    for again in copies:
        assert type(again) is BoxMasks
        assert not again._whole
        assert torch.equal(again.tensor, whole.tensor)
    assert torch.equal(BoxMasks.cat([masks[:3], whole[3:]]).tensor, whole.tensor)
    with pytest.raises(ValueError, match="one image size"):
        BoxMasks.cat([masks, masks.transform(Resize(SIZE, (3, 3)))])


def test_what_was_edited_counts():
    masks, _ = made(SIZE, 5, 0.5)
    masks.tensor[1, :4, :5] = True
    assert masks.areas()[1] == 20
    assert masks.boxes()[1].tolist() == [0, 0, 5, 4]
    for again in (masks, pickle.loads(pickle.dumps(masks)), copy.deepcopy(masks), masks.to("cpu"), masks[:]):
        assert again.rle() == BitMasks(masks.tensor).rle()
    assert torch.equal(BoxMasks.cat([masks[:3], masks[3:]]).tensor, masks.tensor)


def test_no_masks():
    masks = BoxMasks.of([], [], SIZE, CPU)
    assert masks.shape == (0, *SIZE)
    assert masks.rle() == []
    assert masks.areas().shape == (0,)
    assert masks.boxes().shape == (0, 4)
    assert masks[torch.zeros(0, dtype=torch.long)].tensor.shape == (0, *SIZE)
    with pytest.raises(ValueError, match="do not fill windows of 6 pixels"):
        BoxMasks(torch.zeros(5, dtype=torch.bool), torch.tensor([[0, 0, 2, 3]]), SIZE)
