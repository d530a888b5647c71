"""Masks are decoded, moved and drawn inside their boxes: bitmaps of the whole image are never made of all of them."""

import tracemalloc

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from PIL import Image

from detkit.data import AnnotationTable, Mapper, TableDataset
from detkit.data.augmentations import CopyPaste, ResizeShortestEdge
from detkit.data.formats.mask_images import MaskImagesDataset
from detkit.registry import DataError
from detkit.structures import (
    BitMasks,
    Boxes,
    CroppedMasks,
    Instances,
    PolygonMasks,
    ProjectiveTransform,
    Warp,
    cropped_masks,
)
from detkit.visualization import draw_instances

SIDE, NUM = 400, 40


def shape(kind, x, y):
    polygon = [x, y, x + 20, y, x + 20, y + 10, x, y + 20]
    if kind == "polygon":
        return [polygon]
    encoded = coco_mask.frPyObjects([polygon], SIDE, SIDE)[0]
    if kind == "rle":
        return {"size": [SIDE, SIDE], "counts": encoded["counts"].decode()}
    runs = np.flatnonzero(np.diff(coco_mask.decode(encoded).T.reshape(-1), prepend=0, append=0))
    return {"size": [SIDE, SIDE], "counts": np.diff(runs, prepend=0, append=SIDE**2).tolist()}


class Many(TableDataset):
    def __init__(self, kinds):
        places = np.random.default_rng(0).integers(0, SIDE - 30, (NUM, 2)).tolist()
        rows = [
            {
                "id": 2 * i + image,
                "image_id": image,
                "category_id": 1,
                "bbox": [x, y, 20, 20],
                "segmentation": shape(kinds[i % len(kinds)], x, y),
            }
            for i, (x, y) in enumerate(places)
            for image in (1, 2)
        ]
        images = [{"id": i, "file_name": str(i), "height": SIDE, "width": SIDE} for i in (1, 2)]
        super().__init__(images, rows, {1: "a"})

    def read_image(self, index):
        return np.zeros((SIDE, SIDE, 3), np.uint8)


@pytest.fixture
def small_bitmaps_only(monkeypatch):
    """Any ``(N, H, W)`` of more pixels than two images have fails."""
    make = BitMasks.__new__

    def checked(cls, data):
        masks = make(cls, data)
        assert masks.numel() <= 2 * SIDE**2, f"bitmaps of {tuple(masks.shape)}"
        return masks

    monkeypatch.setattr(BitMasks, "__new__", checked)
    monkeypatch.setattr(cropped_masks, "CHUNK_PIXELS", SIDE**2)


@pytest.mark.parametrize("kinds", [["rle"], ["runs"], ["rle", "polygon"], ["polygon"]])
@pytest.mark.parametrize("mask_format", ["polygon", "mini"])
def test_a_sample_of_many_objects_is_made_without_whole_bitmaps(small_bitmaps_only, kinds, mask_format):
    data = Many(kinds)
    steps = [CopyPaste(prob=1.0, max_objects=5), ResizeShortestEdge(short_edge=(SIDE,))]
    sample = Mapper(data, steps, mask_format=mask_format)(0, 0)
    assert len(sample.target) > NUM / 2
    assert len(data[0].objects.masks.rle()) == NUM
    masks = sample.target.masks
    targets = masks[:20].crop_and_resize(Boxes(sample.target.boxes[:20]), 14)
    assert targets.float().mean() > 0.4
    draw_instances(sample.image.permute(1, 2, 0).numpy(), Instances(sample.target.image_size, masks=masks))


def test_the_masks_of_all_forms_are_the_same():
    first, *others = (Many([kind])[0].objects.masks for kind in ("polygon", "rle", "runs"))
    assert isinstance(first, PolygonMasks)
    assert all(torch.equal(other.tensor, first.bitmaps().tensor) for other in others)


@pytest.mark.parametrize("size", [(23, 31), (1, 40), (40, 1), (7, 3)])
@pytest.mark.parametrize("fill", [0.0, 0.03, 0.5, 1.0])
def test_run_lengths_decode_to_what_pycocotools_makes_of_them(size, fill):
    rng = np.random.default_rng(0)
    masks = (rng.random((50, *size)) < fill).astype(np.uint8)
    masks[::2, : size[0] // 2] = 0
    masks[::3, :, size[1] // 2 :] = 0
    encoded = [coco_mask.encode(np.asfortranarray(mask))["counts"] for mask in masks]
    decoded = CroppedMasks.of_rle(encoded, size)
    assert torch.equal(decoded.tensor, torch.from_numpy(masks).bool())
    assert torch.equal(decoded.boxes().tensor, decoded.regions.float()), "the regions are the tight boxes"


BEND = Warp(np.stack(np.meshgrid(np.sin(np.arange(40)) * 5, np.cos(np.arange(50)) * 5, indexing="ij"), -1))
TILT = ProjectiveTransform((40, 50), (30, 45), [[0.9, 0.2, 2], [-0.1, 0.8, 5], [0.004, 0.002, 1]])


@pytest.mark.parametrize("transform", [BEND, TILT], ids=["warp", "perspective"])
def test_masks_that_are_bent_are_those_of_the_whole_bitmaps(transform):
    rng = np.random.default_rng(1)
    whole = BitMasks(torch.from_numpy(rng.random((9, 5, 40, 50)) < 0.3).any(1))
    whole[:, :10], whole[5:, :, 30:] = False, False
    masks = CroppedMasks.around(whole)
    assert torch.equal(masks.transform(transform).tensor, whole.transform(transform).tensor)
    hidden = torch.from_numpy(rng.random((40, 50)) < 0.5)
    assert torch.equal(masks.covered(hidden).tensor, whole.covered(hidden).tensor)
    assert torch.equal(masks.union(), whole.tensor.any(0))


def test_a_table_of_large_images_gives_masks_of_the_size_of_their_objects():
    height, width = 20_000, 30_000
    rle = coco_mask.frPyObjects([[5, 7, 25, 7, 25, 17]], height, width)[0]["counts"].decode()
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 7, 20, 10]}
    rows = [{**row, "id": i, "segmentation": {"size": [height, width], "counts": rle}} for i in range(50)]
    image = {"id": 1, "file_name": "a", "height": height, "width": width}
    table = AnnotationTable.from_rows([image], rows, {1: "a"})
    record = table.record(0, np.broadcast_to(np.uint8(0), (height, width, 3)), "a")
    assert record.objects.masks.bits.numel() == 50 * 19 * 10, "of the 20 pixels one is less than half filled"
    assert record.objects.masks.areas().tolist() == [coco_mask.area({"size": [height, width], "counts": rle})] * 50


def test_masks_of_image_files_are_not_all_held_as_bitmaps(tmp_path):
    side, images, masks = 400, 12, 20
    for number in range(images):
        for folder in ("images", "masks"):
            (tmp_path / f"a{number}" / folder).mkdir(parents=True)
        Image.new("RGB", (side, side)).save(tmp_path / f"a{number}/images/a{number}.png")
        for k in range(masks):
            on = np.zeros((side, side), np.uint8)
            on[k : k + 5, 10:20] = 255
            Image.fromarray(on).save(tmp_path / f"a{number}/masks/{k}.png")
    tracemalloc.start()
    try:
        data = MaskImagesDataset(path=str(tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(data), len(data.objects())) == (images, images * masks)
    assert peak < images * masks * side**2 / 3, "bytes of all bitmaps; numpy's are traced"


def test_a_photograph_in_place_of_a_mask_is_refused_at_once(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    noise = np.random.default_rng(0).integers(0, 2**16, (300, 300), np.uint16)
    Image.fromarray(noise).save(tmp_path / "images/a.png")
    Image.fromarray(noise).save(tmp_path / "masks/a.png")
    with pytest.raises(DataError, match=r"masks/a\.png: has \d+ different values.*photograph"):
        MaskImagesDataset(path=str(tmp_path))
