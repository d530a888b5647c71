"""Real COCO data that go to YOLO and come back keep their boxes to half a pixel, and their masks but for 1 %."""

import os
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
import pytest

from detkit.data import open_dataset
from detkit.data.formats.outlines import one_polygon
from detkit.data.formats.writing import write_dataset

SHARED = Path(os.environ.get("DETKIT_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "data"


def rasters(rows, size):
    masks = [row["segmentation"] for row in rows]
    return [coco_mask.merge(coco_mask.frPyObjects(m, *size)) if isinstance(m, list) else m for m in masks]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data at {SHARED}; set DETKIT_SHARED to the folder that holds data")
@pytest.mark.parametrize("name", ["balloon", "nuclei", "coco_mini"])
def test_objects_keep_boxes_and_masks(name, tmp_path):
    dataset = open_dataset(SHARED / name, split="val")
    write_dataset({"val": dataset}, tmp_path / "yolo", "yolo")
    write_dataset({"val": open_dataset(tmp_path / "yolo", split="val")}, tmp_path / "coco", "coco")
    truth, found = (d.coco() for d in (dataset, open_dataset(tmp_path / "coco", split="val")))
    others = {Path(image["file_name"]).stem: image for image in found["images"]}
    assert len(others) == len(truth["images"])
    compared = 0
    for image in truth["images"]:
        other = others[Path(image["file_name"]).stem]
        size = (image["height"], image["width"])
        rows = [r for r in truth["annotations"] if r["image_id"] == image["id"] and not r["iscrowd"]]
        back = [r for r in found["annotations"] if r["image_id"] == other["id"]]
        assert [row["category_id"] for row in rows] == [truth_id(row, truth, found) for row in back]
        for row, own in zip(back, rows):
            np.testing.assert_allclose(row["bbox"], own["bbox"], atol=0.5)
        pairs = zip(rasters(rows, size), rasters(back, size))
        assert all(coco_mask.iou([a], [b], [0]).item() > 0.99 for a, b in pairs)
        compared += len(rows)
    assert compared > 40


def truth_id(row, truth, found):
    """The id that the class of a row has in the first of two datasets."""
    names = {category["id"]: category["name"] for category in found["categories"]}
    return next(c["id"] for c in truth["categories"] if c["name"] == names[row["category_id"]])


def test_pieces_that_overlap_keep_their_box():
    pieces = [[5.5, 5.2, 30.7, 5.2, 30.7, 20, 5.5, 20], [20, 10, 40.3, 10, 40.3, 33.9, 20, 33.9]]
    outline = np.reshape(one_polygon(pieces, (50, 60)), (-1, 2))
    np.testing.assert_array_equal([outline.min(0), outline.max(0)], [[5.5, 5.2], [40.3, 33.9]])
    joint, separate = (coco_mask.frPyObjects(p, 50, 60) for p in ([outline.reshape(-1).tolist()], pieces))
    assert coco_mask.iou(joint, [coco_mask.merge(separate)], [0]).item() > 0.99
