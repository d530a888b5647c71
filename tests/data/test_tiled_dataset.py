"""TiledDataset: what the tiles of a dataset's images hold."""

import numpy as np
import pytest
import torch

from detkit.config import Recipe
from detkit.data import Mapper, Shapes, TiledDataset
from detkit.data.interfaces import EVERY_CLASS, NEGATIVE, NOT_EXHAUSTIVE
from detkit.registry import DataError

SHAPES = Recipe(Shapes, {"num_images": 4, "image_size": (150, 200), "max_objects": 3})


def tiled(**options):
    return TiledDataset(**{"dataset": SHAPES, "size": (64, 80), "keep_empty": 1.0, **options})


def place(dataset, index):
    """The image that a tile is of, and where it begins there."""
    number, x, y = dataset.image_id(index).split("-")
    whole = [str(dataset.dataset.image_id(i)) for i in range(len(dataset.dataset))].index(number)
    return dataset.dataset[whole], int(x), int(y)


def test_tiles_show_all_pixels_of_all_images():
    dataset = tiled()
    seen = {record.image_id: np.zeros((150, 200), bool) for record in map(dataset.dataset.__getitem__, range(4))}
    for index in range(len(dataset)):
        (whole, x, y), tile = place(dataset, index), dataset[index]
        height, width = dataset.image_size(index)
        assert np.array_equal(tile.image, whole.image[y : y + height, x : x + width])
        assert tile.original_size == tile.objects.image_size == (height, width) == (64, 80)
        seen[whole.image_id][y : y + height, x : x + width] = True
    assert all(pixels.all() for pixels in seen.values())


@pytest.mark.parametrize("min_visible", [0.0, 0.3, 1.0])
def test_objects_are_cut_and_those_that_are_barely_visible_left_out(min_visible):
    dataset = tiled(min_visible=min_visible)
    for index in range(len(dataset)):
        (whole, x, y), tile = place(dataset, index), dataset[index]
        boxes = whole.objects.boxes.tensor
        low, high = torch.tensor([x, y, x, y]), torch.tensor([x + 80, y + 64, x + 80, y + 64])
        shown = torch.minimum(torch.maximum(boxes, low), high) - low
        share = (shown[:, 2:] - shown[:, :2]).prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1)
        masks = whole.objects.masks.bitmaps().tensor[:, y : y + 64, x : x + 80]
        kept = [row for row in range(len(boxes)) if share[row] > 0 and share[row] >= min_visible and masks[row].any()]
        assert torch.equal(tile.objects.masks.bitmaps().tensor, masks[kept])
        assert (tile.objects.boxes.tensor >= 0).all()


def test_an_object_no_larger_than_the_overlap_is_whole_in_some_tile():
    shapes = Recipe(Shapes, {"num_images": 3, "image_size": (150, 200), "max_objects": 4, "max_scale": 0.25})
    dataset = tiled(dataset=shapes, size=80, overlap=0.5, min_visible=1.0)
    whole = sorted(
        area for record in map(dataset.dataset.__getitem__, range(3)) for area in record.objects.masks.areas().tolist()
    )
    ids = {}
    for record in (dataset[i] for i in range(len(dataset))):
        areas = record.objects.masks.areas().tolist()
        ids |= {id_ // dataset._most: area for id_, area in zip(record.objects.annotation_ids.tolist(), areas)}
    assert sorted(ids.values()) == whole


def test_a_stated_share_of_the_tiles_without_objects_is_kept():
    everything = tiled()
    counts = np.array([len(everything[i].objects) for i in range(len(everything))])
    none, half = tiled(keep_empty=0.0), tiled(keep_empty=0.5)
    without = np.bincount(everything.objects().images, minlength=len(everything)) == 0
    assert without.sum() > 4
    assert not counts[without].any()
    assert len(none) == len(everything) - without.sum()
    assert len(half) == len(none) + without.sum() // 2
    assert str(without.sum()) in none.summary()
    with pytest.raises(DataError, match="keep_empty=1 keeps those without"):
        tiled(dataset=Recipe(Shapes, {"num_images": 2, "min_objects": 0, "max_objects": 0}), keep_empty=0.0)


def test_the_tables_say_what_the_records_hold():
    dataset = tiled(min_visible=0.5)
    table, coco = dataset.objects(), dataset.coco()
    assert len({entry["id"] for entry in coco["annotations"]}) == len(coco["annotations"])
    for index in range(len(dataset)):
        record = dataset[index]
        entries = [entry for entry in coco["annotations"] if entry["image_id"] == record.image_id]
        rows = table.images == index
        assert [entry["id"] for entry in entries] == record.annotation_ids.tolist()
        assert set(record.annotation_ids.tolist()) <= set(table.ids[rows].tolist())
        assert [entry["segmentation"] for entry in entries] == record.masks.rle()
        assert (table.boxes[rows] <= [80, 64, 80, 64]).all()
        assert (table.boxes[rows] >= 0).all()


class PartlyLabelled(Shapes):
    """Images that say which classes were looked for, with one region each that may hold any class."""

    def coco(self):
        content = super().coco()
        for number, image in enumerate(content["images"]):
            image |= {NEGATIVE: [number + 1], NOT_EXHAUSTIVE: [number + 2]}
            next(e for e in content["annotations"] if e["image_id"] == image["id"])[EVERY_CLASS] = 1
        return content


def test_tiles_say_what_their_image_says_of_its_classes():
    dataset = tiled(dataset=Recipe(PartlyLabelled, SHAPES.kwargs), min_visible=0.0)
    whole, coco = dataset.dataset.coco(), dataset.coco()
    for index, image in enumerate(coco["images"]):
        own = next(i for i in whole["images"] if i["id"] == place(dataset, index)[0].image_id)
        assert [image[key] for key in (NEGATIVE, NOT_EXHAUSTIVE)] == [own[key] for key in (NEGATIVE, NOT_EXHAUSTIVE)]
    regions = {entry["id"] // dataset._most for entry in coco["annotations"] if entry.get(EVERY_CLASS)}
    assert regions == {entry["id"] for entry in whole["annotations"] if entry.get(EVERY_CLASS)}
    assert not all(entry.get(EVERY_CLASS) for entry in coco["annotations"])


def test_panoptic_maps_are_cut_as_the_image_is():
    dataset = tiled(dataset=Recipe(Shapes, {**SHAPES.kwargs, "panoptic": True}))
    assert dataset.semantic_names == dataset.dataset.semantic_names
    for index in range(len(dataset)):
        (whole, x, y), found = place(dataset, index), dataset.panoptic_map(index)
        ids = dataset.dataset.panoptic_map(whole.image_id).ids[y : y + 64, x : x + 80]
        assert torch.equal(found.ids, ids)
        assert [s.id for s in found.segments] == ids.unique().tolist()
        assert np.array_equal(found.semantic.numpy(), dataset.maps(index)["semantic"])
    assert tiled().panoptic_map(0) is None


def test_a_sample_is_made_of_a_tile():
    sample = Mapper(tiled())(0, 0)
    assert sample.image.shape == (3, 64, 80)
    assert sample.original_size == (64, 80)
    assert sample.target.masks.image_size == (64, 80)
