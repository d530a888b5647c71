"""Panoptic and semantic maps of datasets: from COCO's files, drawn, put together, augmented."""

import dataclasses
import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from panoptic_folder import write_panoptic
from PIL import Image
from variant_folders import IMAGE, write

from detkit.data import CocoPanoptic, ConcatDataset, Mapper, RandomFlip, ResizeShortestEdge, Shapes, open_dataset
from detkit.data.augmentations import FixedSizeCrop
from detkit.data.formats import CocoPanopticFolder
from detkit.registry import DataError

SHARED = Path(os.environ.get("DETKIT_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data/formats"


def test_coco_panoptic_reads_what_was_written(tmp_path):
    options, drawn = write_panoptic(tmp_path, image_size=(64, 80))
    data = CocoPanoptic(**options)
    assert (data.class_names, data.semantic_names) == (drawn.class_names, drawn.semantic_names)
    assert data.stuff_ids == (6, 7, 8, 9)
    for index in range(3):
        record, there = data[index], drawn[index]
        assert np.array_equal(record.maps["semantic"], there.maps["semantic"])
        assert record.maps["semantic"].dtype == np.uint8
        assert torch.equal(record.objects.classes, there.objects.classes)
        ours, theirs = data.panoptic_map(index), drawn.panoptic_map(index)
        for a, b in zip(ours.segments, theirs.segments, strict=True):
            assert (a.class_index, a.is_thing) == (b.class_index, b.is_thing)
            assert torch.equal(ours.ids == a.id, theirs.ids == b.id)
    folder = CocoPanopticFolder(path=str(tmp_path), check_images=0)
    assert folder.semantic_names == data.semantic_names
    assert np.array_equal(folder[1].maps["semantic"], data[1].maps["semantic"])
    assert np.array_equal(open_dataset(tmp_path / "panoptic.json")[1].maps["semantic"], data[1].maps["semantic"])
    assert "semantic maps of 5 classes" in data.summary()


def test_what_is_in_no_segment_or_of_a_class_left_out_is_unknown(tmp_path):
    options, drawn = write_panoptic(tmp_path)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    first = content["annotations"][0]["segments_info"].pop(0)  # some stuff
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    present = {s.class_index for s in drawn.panoptic_map(0).segments if s.is_thing}
    kept = [name for k, name in enumerate(drawn.class_names) if k not in present]
    record, truth = CocoPanoptic(**options)[0], drawn.panoptic_map(0)
    unknown = record.maps["semantic"] == 255
    assert np.array_equal(unknown, truth.ids.numpy() == first["id"])
    without = CocoPanoptic(**options, class_names=tuple(kept))
    assert not (without[0].maps["semantic"] == 0).any()
    assert not any(s.is_thing for s in without.panoptic_map(0).segments)


@pytest.mark.parametrize("name", ["../secret.png", "/secret.png"])
def test_a_map_outside_of_its_folder_is_not_read(name, tmp_path):
    options, _ = write_panoptic(tmp_path)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    content["annotations"][0]["file_name"] = name
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"'{name}' of a map of segments leads out of this folder"):
        CocoPanoptic(**options)


def test_crowds_are_marked(tmp_path):
    options, _ = write_panoptic(tmp_path)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    content["annotations"][0]["segments_info"][-1]["iscrowd"] = 1
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    segments = CocoPanoptic(**options).panoptic_map(0).segments
    assert [s.crowd for s in segments] == [False] * (len(segments) - 1) + [True]


@pytest.mark.parametrize("wrong", ["image", "category", "png", "size", "json"])
def test_what_is_wrong_names_file_and_image(wrong, tmp_path):
    options, _ = write_panoptic(tmp_path)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    words = (
        {"image": "no segments of image 0", "category": "category 77", "png": "0.png", "size": "128 x 64"}[wrong]
        if wrong != "json"
        else "not COCO panoptic"
    )
    if wrong == "image":
        content["annotations"].pop(0)
    elif wrong == "category":
        content["annotations"][0]["segments_info"][0]["category_id"] = 77
    elif wrong == "png":
        (tmp_path / "panoptic" / content["annotations"][0]["file_name"]).unlink()
    elif wrong == "size":
        Image.new("RGB", (128, 64)).save(tmp_path / "panoptic" / content["annotations"][0]["file_name"])
    else:
        content = []
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        CocoPanoptic(**options)[0]


def test_maps_go_through_augmentations_with_the_image():
    data = Shapes(num_images=4, image_size=(64, 80), panoptic=True)
    for augment in (
        RandomFlip(prob=1.0),
        ResizeShortestEdge(short_edge=(100,), max_size=300),
        FixedSizeCrop(size=(96, 96)),
    ):
        for index in range(4):
            record = Mapper(data, [augment], train=False).record(index, np.random.default_rng(index))
            values = record.maps["semantic"]
            assert values.shape == record.size
            things = np.zeros(record.size, bool)
            for bitmap in record.objects.masks.bitmaps().tensor.numpy():
                things |= bitmap
            agree = (things == (values == 0)).mean()
            assert agree > 0.97
            assert set(np.unique(values).tolist()) <= {0, 1, 2, 3, 4, 255}
    padded = Mapper(data, [FixedSizeCrop(size=(96, 96))], train=False)(0, 0)
    assert (padded.maps["semantic"][64:] == 255).all(), "padding is of no class"
    assert padded.maps["semantic"].dtype == torch.uint8


def test_datasets_with_maps_are_put_together_where_their_classes_are_the_same():
    one = partial(Shapes, num_images=2, panoptic=True)
    both = ConcatDataset(datasets=(one, partial(one, seed=1)))
    assert both.semantic_names == one().semantic_names
    assert np.array_equal(both[3].maps["semantic"], Shapes(num_images=2, panoptic=True, seed=1)[1].maps["semantic"])
    assert torch.equal(both.panoptic_map(0).ids, one().panoptic_map(0).ids)
    assert ConcatDataset(datasets=(one, partial(Shapes, num_images=2))).semantic_names == ()

    class Others(Shapes):
        def __init__(self):
            super().__init__(num_images=1, panoptic=True)
            self.semantic_names = ("things", "sky")

    with pytest.raises(ValueError, match="semantic maps of the same classes"):
        ConcatDataset(datasets=(one, Others))


def test_maps_of_the_published_examples():
    folder = SHARED / "coco_panoptic/panopticapi/data"
    if not folder.is_dir():
        pytest.skip(f"no samples at {SHARED}")
    data = open_dataset(folder)
    content = json.loads((folder / "panoptic_examples.json").read_text())
    categories = {c["id"]: c for c in content["categories"]}
    assert data.semantic_names == ("things", *(c["name"] for c in categories.values() if not c["isthing"]))
    for index in range(len(data)):
        entry = next(e for e in content["annotations"] if e["image_id"] == data.image_id(index))
        panoptic, values = data.panoptic_map(index), data[index].maps["semantic"]
        areas = np.bincount(panoptic.ids.numpy().ravel())
        assert [areas[s.id] for s in panoptic.segments] == [s["area"] for s in entry["segments_info"]]
        assert [s.crowd for s in panoptic.segments] == [bool(s["iscrowd"]) for s in entry["segments_info"]]
        for segment, row in zip(panoptic.segments, entry["segments_info"], strict=True):
            name = (
                data.class_names[segment.class_index] if segment.is_thing else data.semantic_names[segment.class_index]
            )
            assert name == categories[row["category_id"]]["name"]
        objects = data.coco()["annotations"]
        masks = coco_mask.merge([o["segmentation"] for o in objects if o["image_id"] == entry["image_id"]])
        assert np.array_equal(coco_mask.decode(masks) == 1, values == 0)


def test_a_sample_takes_its_maps_along():
    sample = Mapper(Shapes(num_images=1, panoptic=True), [], train=True)(0, 0)
    assert dataclasses.replace(sample).to("cpu").maps["semantic"].shape == sample.image.shape[1:]


def test_cityscapes_has_stuff_too(tmp_path):
    ids = np.zeros((30, 40), np.uint16)
    ids[:10], ids[10:20, :20], ids[10:20, 20:], ids[25:] = 23, 26001, 26, 7
    for name, values in (
        ("gtFine/val/a/a_1_gtFine_instanceIds.png", ids),
        ("leftImg8bit/val/a/a_1_leftImg8bit.png", None),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(np.zeros((30, 40, 3), np.uint8) if values is None else values).save(tmp_path / name)
    data = open_dataset(tmp_path)
    names, values = data.semantic_names, data[0].maps["semantic"]
    assert len(names) == 12
    assert (values[:10] == names.index("sky")).all()
    assert (values[25:] == names.index("road")).all()
    assert (values[10:20] == 0).all()
    assert (values[20:25] == 255).all()
    things = [s for s in data.panoptic_map(0).segments if s.is_thing]
    assert [(data.class_names[s.class_index], s.crowd) for s in things] == [("car", True), ("car", False)]
    assert not set(data.stuff_ids) & set(data.category_ids)


def test_parts_may_have_images_and_maps_of_equal_names(tmp_path):
    things = [{"id": 3, "category_id": 1}]
    files = {}
    for part, rows in (("train", slice(0, 4)), ("val", slice(10, 20))):
        ids = np.zeros((30, 40, 3), np.uint8)
        ids[rows, :, 0] = 3
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}],
            "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": things}],
            "categories": [{"id": 1, "name": "cat", "isthing": 1}],
        }
        files |= {f"annotations/panoptic_{part}.json": content, f"annotations/panoptic_{part}/a.png": ids}
        files[f"{part}/a.png"] = IMAGE
    write(tmp_path, files)
    for part, box in (("train", [0, 0, 40, 4]), ("val", [0, 10, 40, 20])):
        dataset = open_dataset(tmp_path, split=part)
        assert dataset.image_path(0) == str(tmp_path / part / "a.png")
        assert dataset[0].boxes.tensor.tolist() == [box]
    (tmp_path / "train/a.png").unlink()
    with pytest.raises(DataError, match=r"panoptic_train\.json names the image 'a\.png'"):
        open_dataset(tmp_path, split="train")
