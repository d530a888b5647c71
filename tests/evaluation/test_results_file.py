"""Detections of a file are those that were written, or are refused with their number."""

import json

import numpy as np
import pycocotools.mask as coco_mask
import pytest

from detkit.data import Shapes
from detkit.evaluation import CocoEvaluator
from detkit.evaluation.results_file import read_detections
from detkit.registry import DataError


@pytest.fixture(scope="module")
def truth():
    return CocoEvaluator(Shapes(num_images=3, seed=1)).truth


def rows(truth, **changes):
    """Every object as a detection."""
    keys = ("image_id", "category_id", "bbox", "segmentation")
    found = [{**{key: row[key] for key in keys}, "score": 0.5} for row in truth.annotations]
    return json.loads(json.dumps([{**row, **changes} for row in found]))


@pytest.mark.parametrize("lines", [False, True])
def test_what_is_written_is_read(tmp_path, truth, lines):
    found, file = rows(truth), tmp_path / ("a.jsonl" if lines else "a.json")
    file.write_text("\n".join(map(json.dumps, found)) if lines else json.dumps(found))
    detections = read_detections(file, truth)
    assert [row for i in truth.number for row in detections[i].rows(i, tuple(truth.class_number))] == [
        {**row, "segmentation": {**row["segmentation"]}} for row in found
    ]


def test_boxes_alone_masks_alone_and_nothing(tmp_path, truth):
    file = tmp_path / "a.json"
    file.write_text(json.dumps([{k: v for k, v in row.items() if k != "segmentation"} for row in rows(truth)]))
    assert all(found.masks is None for found in read_detections(file, truth).values())
    file.write_text(json.dumps([{k: v for k, v in row.items() if k != "bbox"} for row in rows(truth)]))
    boxes = np.concatenate([found.boxes for found in read_detections(file, truth).values()])
    assert np.abs(boxes - [row["bbox"] for row in truth.annotations]).max() <= 1
    file.write_text("[]")
    assert {i: len(found.scores) for i, found in read_detections(file, truth).items()} == dict.fromkeys(truth.number, 0)


@pytest.mark.parametrize(
    "changes",
    [{"image_id": 99}, {"category_id": 77}, {"score": None}, {"bbox": [1, 2, 3]}, {"bbox": [1, 2, 3, "a"]},
     {"image_id": [1]}, {"bbox": None, "segmentation": None}, {"segmentation": 3},
     {"segmentation": [[0, 0, 1e12, 0, 5, 5]]}, {"score": 10**400}],
)  # fmt: skip
def test_what_is_no_detection_is_named(tmp_path, truth, changes):
    found = rows(truth)
    found[2] |= changes
    (tmp_path / "a.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"a\.json: entry 2 .*expected an image_id and a category_id"):
        read_detections(tmp_path / "a.json", truth)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_mask_that_is_not_of_its_images_size_is_named(tmp_path, truth, compressed):
    height, width = (truth.images[0][side] for side in ("height", "width"))
    for size, runs, words in (
        ([height // 2, width // 2], [height * width // 4], "its RLE is of size"),  # of the image as the model saw it
        ([width, height + 1], [(height + 1) * width], "its RLE is of size"),
        ([height, width], [7], "the runs of its RLE sum up to 7 pixels"),
        (None, [height * width], "its RLE is of size None"),
    ):
        rle = {"size": size, "counts": runs}
        if compressed:
            encoded = coco_mask.frPyObjects({"size": [1, sum(runs)], "counts": runs}, 1, sum(runs))
            rle["counts"] = encoded["counts"].decode()
        found = rows(truth)
        found[2] |= {"image_id": next(iter(truth.number)), "segmentation": rle}
        (tmp_path / "a.json").write_text(json.dumps(found))
        with pytest.raises(DataError, match=rf"a\.json: entry 2 \(from 0\): {words}"):
            read_detections(tmp_path / "a.json", truth)
