"""Rows of a COCO file become the same table however they are read, and so do the same rows from anywhere else."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from detkit.data import AnnotationTable, CocoInstances
from detkit.data.datasets import coco, coco_file, row_reader
from detkit.data.datasets.coco_file import JsonRows, read_json
from detkit.data.datasets.row_reader import Policy
from detkit.data.datasets.rows import Row
from detkit.data.flat import Ragged

RLE = {"size": [40, 60], "counts": [5, 10, 2385]}
ODD = [
    {"area": None},
    {"area": "big"},
    {"iscrowd": None},
    {"iscrowd": 1, "segmentation": RLE},
    {"segmentation": RLE, "area": None},
    {"segmentation": [2, 2, 9, 2, 9, 9]},
    {"segmentation": []},
    {"segmentation": None},
    {"segmentation": [[1, 1, 5, 5]]},
    {"segmentation": [[1, 1, 5, 5], [2, 2, 9, 2, 9, 9]]},
    {"segmentation": [[True, 1, 5, 5, 2, 2]]},
    {"bbox": [-3, 2, 20, 10]},
    {"bbox": [10, 10, 0, 5]},
    {"bbox": [70, 10, 5, 5]},
    {"bbox": [0.25, -0.25, 60, 40]},
    {"image_id": 2, "category_id": 1},
    {"keypoints": [1, 2, 2, 0, 0, 0]},
    {"keypoints": []},
]
WRONG = [
    {"id": 3},
    {"image_id": 9},
    {"category_id": 7},
    {"bbox": [1, 2, 3]},
    {"bbox": [1, 2, "3", 4]},
    {"segmentation": [[1, 1, 5, 5, 2]]},
    {"segmentation": [[1, 1, 5e7, 5, 2, 2]]},
    {"segmentation": [["x", 1, 5, 5, 2, 2]]},
    {"keypoints": [1, 2, 3, 0, 0, 0]},
    {"keypoints": [1, 2, 2]},
    {"id": "5"},
    {"id": 3},
]
IMAGES = [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in (3, 1, 2)]
CATEGORIES = {1: "a", 2: "b"}


def entry(number, **other):
    usual = {
        "id": number,
        "image_id": 1 + number % 3,
        "category_id": 1 + number % 2,
        "bbox": [2.5, 3, 10 + number, 7.25],
        "area": 33.5,
        "iscrowd": 0,
        "segmentation": [[2.5, 3, 12, 3, 12, 10.25 - number / 8], [1, 1, 9, 1, 9, 9, 1, 9]][: 1 + number % 2],
    }
    return {k: v for k, v in {**usual, **other}.items() if v is not None}


def write(path, annotations):
    categories = [{"id": id_, "name": name} for id_, name in CATEGORIES.items()]
    path.write_text(json.dumps({"images": IMAGES, "categories": categories, "annotations": annotations}))
    return str(path)


def read(path, rows=None, report=None, **policy):
    images, found, _ = read_json(path, Row)
    options = {"report": report.append} if report is not None else {}
    rows = found if rows is None else rows
    settings = Policy(**{"invalid_masks": "drop", **policy})
    return AnnotationTable.from_rows(images, rows, CATEGORIES, policy=settings, place="a.json", **options)


def leaves(value):
    if dataclasses.is_dataclass(value):
        return [leaf for field in dataclasses.fields(value) for leaf in leaves(getattr(value, field.name))]
    return [value]


def assert_equal(one, other):
    for a, b in zip(leaves(one), leaves(other), strict=True):
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        assert np.asarray(a).dtype == np.asarray(b).dtype


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("policy", [{}, {"keep_crowd": False}, {"invalid_masks": "box"}])
def test_the_number_of_rows_read_together_changes_nothing(tmp_path, monkeypatch, chunk, policy):
    odd = [entry(2 * number, **other) for number, other in enumerate(ODD)]
    annotations = [e for pair in zip(odd, [entry(2 * n + 1) for n in range(len(odd))]) for e in pair]
    path = write(tmp_path / "a.json", annotations)
    whole = read(path, **policy)
    for module in (coco_file, row_reader):
        monkeypatch.setattr(module, "CHUNK", chunk)
    assert_equal(read(path, **policy), whole)
    assert len(whole) > len(ODD) * 3 / 2


def test_rows_of_a_file_rows_as_mappings_and_columns_give_the_same_table(tmp_path):
    annotations = [entry(n) for n in range(9)]
    path = write(tmp_path / "a.json", annotations)
    table = read(path)
    assert_equal(read(path, rows=annotations), table)
    assert_equal(read(path, rows=iter(annotations)), table)
    assert_equal(read(path, rows=[Row(**row) for row in annotations]), table)
    columns = {name: [row[name] for row in annotations] for name in annotations[0]}
    for name in ("id", "image_id", "category_id", "area", "bbox"):
        columns[name] = np.array(columns[name])
    settings = {"policy": Policy(invalid_masks="drop"), "place": "a.json"}
    assert_equal(AnnotationTable.from_columns(IMAGES, columns, CATEGORIES, **settings), table)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_number_of_rows_read_together_changes_no_issue(tmp_path, monkeypatch, chunk):
    annotations = [entry(n, keypoints=[1, 1, 1, 2, 2, 2]) for n in range(4)]
    annotations += [entry(10 + n, **other) for n, other in enumerate(WRONG)]
    path, expected, found = write(tmp_path / "a.json", annotations), [], []
    whole = read(path, report=expected)
    monkeypatch.setattr(row_reader, "CHUNK", chunk)
    assert_equal(read(path, report=found), whole)
    assert list(map(str, found)) == list(map(str, expected))
    assert len(found) == len(WRONG)
    assert whole.ids.tolist() == [2, 0, 3, 1]


@pytest.mark.parametrize("name", ["coco_mini/annotations/instances_train2017", "nuclei/annotations/instances_val"])
def test_real_files_read_by_pythons_json_are_the_same(shared_data, monkeypatch, name):
    path = str(Path(shared_data) / f"{name}.json")
    options = {"json_file": path, "image_root": str(shared_data), "check_images": 0}
    fast = CocoInstances(**options).table
    content = json.loads(Path(path).read_text())
    lists = tuple(content[key] for key in ("images", "annotations", "categories"))
    monkeypatch.setattr(coco, "read_json", lambda *args: lists)
    assert_equal(CocoInstances(**options).table, fast)
    assert len(fast) > 700


def test_what_only_pythons_json_takes_is_read_by_it(tmp_path):
    path = write(tmp_path / "a.json", [entry(1, area=float("nan")), entry(2)])
    assert not isinstance(read_json(path, Row)[1], JsonRows)
    dataset = CocoInstances(json_file=path, image_root=str(tmp_path), check_images=0)
    assert len(dataset.coco()["annotations"]) == 2


def test_arrays_are_kept_apart_from_those_that_are_given(tmp_path):
    mask = np.zeros((40, 60), bool)
    mask[5:15, 10:30] = True
    box = np.array([10, 5, 20, 10], np.float32)
    row = {"id": np.int64(4), "image_id": 1, "category_id": 2, "bbox": box, "segmentation": mask}
    table = AnnotationTable.from_rows(IMAGES, [row], CATEGORIES)
    box[:] = 0
    objects = table.record(1, np.zeros((40, 60, 3), np.uint8), "1.jpg").objects
    assert objects.boxes.tensor.tolist() == [[10, 5, 30, 15]]
    assert (objects.masks.numpy()[0] == mask).all()
    assert table.areas.tolist() == [200]


def test_ragged_rows_in_another_order_without_some():
    pieces = [Ragged.of_lists([[1, 2], [], [3]]), Ragged.of_lists([]), Ragged.of_lists([[4, 5, 6], [7]])]
    found = Ragged.cat(pieces, np.array([4, 0, 1, 3]))
    assert [row.tolist() for row in (found[i] for i in range(len(found)))] == [[7], [1, 2], [], [4, 5, 6]]
    assert pieces == []
