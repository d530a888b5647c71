"""Samples of each format are read to their truth, which was computed from their files by other means."""

import json
import os
from pathlib import Path

import pycocotools.mask as coco_mask
import pytest

from detkit.data import open_dataset

SHARED = Path(os.environ.get("DETKIT_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "data/formats"
SAMPLES = sorted(path.parent for path in SHARED.glob("*/*/expected.json"))
PARTS = {"dota/datumaro_tiny": "val", "open_images/datumaro_v6": "train"}
"""Samples whose truth is of one part."""
UNORDERED = ("voc/bccd_degenerate",)
"""Samples without a list of classes, whose truth has them in no order of the files."""


def cases():
    for sample in SAMPLES:
        truth = json.loads((sample / "expected.json").read_text())
        for file in truth.get("configs", [""]):
            name = f"{sample.parent.name}/{sample.name}"
            yield pytest.param(sample / "data" / file, truth, name, id=f"{name}/{file}".rstrip("/"))


@pytest.mark.skipif(not SAMPLES, reason=f"no samples at {SHARED}; set DETKIT_SHARED to the folder that holds data/")
@pytest.mark.parametrize(("path", "truth", "name"), list(cases()))
def test_a_sample_is_read_to_its_truth(path, truth, name):
    dataset = open_dataset(path, split=PARTS.get(name))
    classes = list(dataset.class_names)
    assert sorted(classes) == sorted(truth["classes"]) if name in UNORDERED else classes == truth["classes"]
    found = dataset.coco()
    categories = {entry["id"]: entry["name"] for entry in found["categories"]}
    images = {entry["file_name"]: entry for entry in found["images"]}
    assert len(images) == len(truth["images"])
    for image in truth["images"]:
        there = images[image["file"].rpartition(": /")[2]]
        size = (there["height"], there["width"])
        assert size == (image["height"], image["width"])
        objects = [entry for entry in found["annotations"] if entry["image_id"] == there["id"]]
        assert len(objects) == len(image["objects"])
        for got, expected in zip(objects, image["objects"]):
            compare(got, expected, categories, size)


def compare(got, expected, categories, size):
    x, y, width, height = got["bbox"]
    assert [x, y, x + width, y + height] == pytest.approx(expected["box"], abs=0.01, rel=0)
    assert bool(got["iscrowd"]) == (expected["crowd"] and not expected.get("single_object", False))
    if expected["class"] != "DontCare":
        assert categories[got["category_id"]] == expected["class"]
    if expected["keypoints"]:
        assert got["keypoints"] == [value for point in expected["keypoints"] for value in point]
    if expected["mask_area"] is not None:
        mask = got["segmentation"]
        mask = coco_mask.merge(coco_mask.frPyObjects(mask, *size)) if isinstance(mask, list) else mask
        assert coco_mask.iou([mask], [expected["mask_rle"]], [0]).item() > 0.99


@pytest.mark.skipif(not SAMPLES, reason=f"no samples at {SHARED}; set DETKIT_SHARED to the folder that holds data/")
@pytest.mark.parametrize("path", [path for path in SAMPLES if path.name != "sdk_boxes"], ids=lambda path: path.name)
def test_the_images_of_a_sample_can_be_read(path):
    dataset = open_dataset(path / "data")
    for index in range(len(dataset)):
        record = dataset[index]
        assert record.image.shape == (*dataset.image_size(index), 3)
