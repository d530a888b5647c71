"""A COCO file read some thousand annotations at a time: the same as one by one, with Python's own JSON."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from detkit.data import CocoInstances
from detkit.data.datasets import coco_annotations, coco_json
from detkit.data.datasets.coco_annotations import AnnotationReader, Policy
from detkit.data.datasets.coco_json import CocoFile
from detkit.data.datasets.json_entries import JsonEntries, decoded, split_coco
from detkit.data.flat import Ragged

RLE = {"size": [40, 60], "counts": [5, 10, 2385]}


def tables(path, monkeypatch, report=None, chunk=None, **policy):
    """The table and the tally: read fast, and with the fast ways barred."""
    found = []
    for fast in (True, False):
        with monkeypatch.context() as patch:
            if chunk is not None:
                patch.setattr("detkit.data.datasets.json_entries.CHUNK", chunk)
            if not fast:
                patch.setattr(coco_json, "split_coco", lambda text: None)
                patch.setattr(coco_annotations, "plain_columns", lambda *args: None)
            file = CocoFile.load(str(path)) if report is None else CocoFile.load(str(path), report[fast].append)
            assert isinstance(file.content["annotations"], JsonEntries) == fast
            settings = {"keep_crowd": True, "invalid_boxes": "drop", "invalid_masks": "drop", **policy}
            classes = file.classes(None)[1]
            classes[min(classes)] = -1 if policy else 0
            reader = AnnotationReader(file, file.images(), classes, Policy(**settings))
            found.append((reader.read(), +reader.tally))
    return found


def assert_equal(found):
    (fast, tally), (slow, slow_tally) = found
    assert tally == slow_tally
    for field in dataclasses.fields(fast):
        a, b = getattr(fast, field.name), getattr(slow, field.name)
        pairs = [(a.data, b.data), (a.offsets, b.offsets)] if isinstance(a, Ragged) else [(a, b)]
        for x, y in pairs:
            assert np.array_equal(x, y), field.name
            assert np.asarray(x).dtype == np.asarray(y).dtype, field.name


def entry(number, **other):
    plain = {
        "id": number,
        "image_id": 1 + number % 3,
        "category_id": 1 + number % 2,
        "bbox": [2.5, 3, 10 + number, 7.25],
        "area": 33.5,
        "iscrowd": 0,
        "segmentation": [[2.5, 3, 12, 3, 12, 10.25 - number / 8], [1, 1, 9, 1, 9, 9, 1, 9]][: 1 + number % 2],
    }
    return {k: v for k, v in {**plain, **other}.items() if v is not None}


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
]


def write(path, annotations):
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in (3, 1, 2)]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return path


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("policy", [{}, {"keep_crowd": False}, {"invalid_masks": "box"}])
def test_annotations_of_all_kinds(tmp_path, monkeypatch, chunk, policy):
    odd = [entry(2 * number, **other) for number, other in enumerate(ODD)]
    annotations = [e for pair in zip(odd, [entry(2 * n + 1) for n in range(len(odd))]) for e in pair]
    found = tables(write(tmp_path / "a.json", annotations), monkeypatch, chunk=chunk, **policy)
    assert_equal(found)
    assert len(found[0][0]) > len(ODD) / 2


def test_faults_are_the_same_ones(tmp_path, monkeypatch):
    wrong = [
        {"id": 3},
        {"image_id": 9},
        {"category_id": 7},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, "3", 4]},
        {"segmentation": [[1, 1, 5, 5, 2]]},
        {"segmentation": [[1, 1, 5e7, 5, 2, 2]]},
        {"segmentation": [["x", 1, 5, 5, 2, 2]]},
        {"id": "5"},
        {"id": 3},
    ]
    report = {True: [], False: []}
    annotations = [entry(n) for n in range(4)] + [entry(10 + n, **other) for n, other in enumerate(wrong)]
    found = tables(write(tmp_path / "a.json", annotations), monkeypatch, report, chunk=3)
    assert_equal(found)
    assert sorted(map(str, report[True])) == sorted(map(str, report[False]))
    assert len(report[True]) >= len(wrong)


@pytest.mark.parametrize("name", ["coco_mini/annotations/instances_train2017", "nuclei/annotations/instances_val"])
def test_real_files(shared_data, monkeypatch, name):
    found = tables(Path(shared_data) / f"{name}.json", monkeypatch, chunk=100)
    assert_equal(found)
    assert len(found[0][0]) > 700


def test_what_only_pythons_json_takes_is_read_by_it(tmp_path):
    path = write(tmp_path / "a.json", [entry(1, area=float("nan")), entry(2)])
    assert split_coco(path.read_bytes()) is None
    dataset = CocoInstances(json_file=str(path), image_root=str(tmp_path), check_images=0)
    assert len(dataset.coco()["annotations"]) == 2
    for text in (b"[]", b'{"images": [], "annotations": {}, "categories": []}', b"{", b"\xff", b'{"images": [3]}'):
        assert split_coco(text) is None
    assert split_coco(b'{"images": [3], "annotations": [], "categories": []}') is None


def test_entries_are_a_list(monkeypatch):
    monkeypatch.setattr("detkit.data.datasets.json_entries.CHUNK", 3)
    values = [{"id": i, "big": 2**70 + i} for i in range(8)]
    parts = split_coco(json.dumps({"images": values, "annotations": values, "categories": []}).encode())
    entries = parts["annotations"]
    assert list(entries) == values
    assert [entries[i] for i in (7, 0, 4)] == [values[i] for i in (7, 0, 4)]
    assert entries[2:5] == values[2:5]
    assert [len(chunk) for chunk in entries.chunks()] == [3, 3, 2]
    assert decoded([]) == []
    with pytest.raises(IndexError):
        entries[8]
