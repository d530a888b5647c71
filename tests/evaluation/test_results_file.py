"""Detections of a file are those that were written, or are refused with their number."""

import json

import numpy as np
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
     {"image_id": [1]}, {"bbox": None, "segmentation": None}, {"segmentation": {"size": [1, 1]}}],
)  # fmt: skip
def test_what_is_no_detection_is_named(tmp_path, truth, changes):
    found = rows(truth)
    found[2] |= changes
    (tmp_path / "a.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"a\.json: entry 2 .*expected an image_id and a category_id"):
        read_detections(tmp_path / "a.json", truth)
