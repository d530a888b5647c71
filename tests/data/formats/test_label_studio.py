"""The image of a task is found among the other texts of its data, and one of its annotations counts."""

import json

import pytest
from PIL import Image
from variant_folders import BOX, IDS, IMAGE, STUDIO, STUDIO_BOX, png, write

from detkit.data import open_dataset
from detkit.registry import DataError


def task(**data):
    return {"p.json": [{"id": 1, "data": data, "annotations": [{"result": [STUDIO_BOX]}]}]}


@pytest.mark.parametrize(
    "data",
    [
        {"caption": "A dog. Big.", "image": "/data/upload/1/a.png"},
        {"link": "https://a.org/b", "caption": "b", "image": "/data/local-files/?d=images/a.png"},
        {"caption": "Big.", "image": "s3://bucket/a.png?X-Amz-Signature=1.2/3"},
        {"thumbnail": "/data/upload/1/small.png", "image": "/data/upload/1/a.png"},
        {"caption": "A dog.", "image": "https://a.org/a"},
    ],
)
def test_the_image_is_the_text_that_names_one(data, tmp_path):
    write(tmp_path, {**task(**data), "images/a.png": IMAGE, "images/b.png": IMAGE})
    dataset = open_dataset(tmp_path)
    assert dataset.image_path(0) == str(tmp_path / "images/a.png")


def test_an_image_that_is_not_there_is_named(tmp_path):
    write(tmp_path, {**task(caption="a", image="/data/upload/1/c.png"), "a.png": IMAGE})
    with pytest.raises(DataError, match=r"task 0 \(id 1\) names the image '/data/upload/1/c\.png', but there is no"):
        open_dataset(tmp_path)


def annotated(root, *annotations):
    write(root, {"p.json": [{"id": 1, "data": {"image": "a.png"}, "annotations": annotations}], "a.png": IMAGE})
    return open_dataset(root)


@pytest.mark.parametrize(("truth", "label"), [({}, "cat"), ({"ground_truth": True}, "dog")])
def test_of_several_annotations_the_ground_truth_counts_or_else_the_first(truth, label, tmp_path, caplog):
    caplog.set_level("INFO")
    dog = {**STUDIO_BOX, "value": {**STUDIO, "rectanglelabels": ["dog"]}}
    cancelled = {"result": [], "was_cancelled": True}
    assert annotated(tmp_path, cancelled, {"result": [STUDIO_BOX]}, {"result": [dog], **truth}).class_names == (label,)
    assert "p.json: 1 task with several annotations, of which one counts" in caplog.text


def test_a_bitmap_is_a_mask_and_what_has_no_area_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    value = {"imageDataURL": f"data:image/png;base64,{png(IDS)}", "bitmasklabels": ["cat"]}
    point = {**STUDIO_BOX, "type": "keypointlabels", "value": {"x": 1, "y": 1, "keypointlabels": ["eye"]}}
    dataset = annotated(tmp_path, {"result": [{**STUDIO_BOX, "type": "bitmasklabels", "value": value}, point]})
    assert dataset.coco()["annotations"][0]["area"] == 144
    assert dataset[0].boxes.tensor.tolist() == [BOX]
    assert "1 label without area or class left out, such as points, lines and tags" in caplog.text


def test_labels_of_several_images_of_one_task_are_refused(tmp_path):
    results = [{**STUDIO_BOX, "to_name": name} for name in ("before", "after")]
    content = {"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": results}]}
    write(tmp_path, {"p.json": [content], "a.png": IMAGE, "b.png": IMAGE})
    assert len(open_dataset(tmp_path)[0].boxes) == 2, "two views of one image"
    write(tmp_path, {"p.json": [{**content, "data": {"image": "a.png", "other": "b.png"}}]})
    with pytest.raises(
        DataError, match=r"task 0 \(id 1\): its labels are of several images \(after, before\); expected"
    ):
        open_dataset(tmp_path)
    write(tmp_path, {"p.json": [{**content, "data": {"pages": ["a.png", "b.png"]}}]})
    with pytest.raises(DataError, match=r"no text that names an image; tasks of several pages cannot be read"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"id": 7, "result": [STUDIO_BOX], "was_cancelled": False, "task": {"id": 1, "data": {"image": "s3://b/a.png"}}},
        {"id": 1, "data": {"image": "s3://b/a.png"}, "annotations": [{"id": 7, "result": [STUDIO_BOX]}]},
        {"id": 1, "data": {"image": "/data/a.png"}, "completions": [{"id": 7, "result": [STUDIO_BOX]}]},
    ],
)
def test_files_of_a_storage_hold_a_task_or_an_annotation(content, tmp_path):
    write(tmp_path, {"out/1.json": content, "out/2.json": json.loads(json.dumps(content).replace("a.png", "b.png"))})
    write(tmp_path, {"a.png": IMAGE, "b.png": IMAGE})
    dataset = open_dataset(tmp_path)
    assert dataset.format == "Label Studio"
    assert [dataset[i].boxes.tensor.tolist() for i in range(2)] == [[BOX]] * 2


def test_run_lengths_are_unpacked_as_label_studio_packs_them(tmp_path):
    values = [0] * 64 + [255] * 32 + [7, 0, 255, 9] * 4 + [0] * 48  # 10 x 4 pixels of four values
    runs = [(True, 64, [0]), (True, 32, [255]), (False, 16, values[96:112]), (True, 48, [0])]
    bits = f"{len(values):032b}{7:05b}" + f"{5:04b}" * 4
    for same, count, listed in runs:
        bits += f"{same:d}00{count - 1:06b}" + "".join(f"{value:08b}" for value in listed)
    rle = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    brush = {**STUDIO_BOX, "type": "brushlabels", "original_width": 10, "original_height": 4}
    result = {**brush, "value": {"format": "rle", "rle": rle, "brushlabels": ["cat"]}}
    Image.new("RGB", (10, 4)).save(tmp_path / "a.png")
    write(tmp_path, {"p.json": [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [result]}]}]})
    row = open_dataset(tmp_path).coco()["annotations"][0]
    assert row["area"] == sum(value > 0 for value in values[3::4])


def test_an_uploaded_list_of_tasks_is_no_image(tmp_path):
    content = {**task(image="https://a.org/a.png")["p.json"][0], "file_upload": "0a1b2c3d-tasks.json"}
    write(tmp_path, {"p.json": [content], "images/a.png": IMAGE, "images/b.png": IMAGE})
    assert open_dataset(tmp_path).image_path(0) == str(tmp_path / "images/a.png")
    write(tmp_path, {"p.json": [{**content, "data": {"pages": ["a.png", "b.png"]}}]})
    with pytest.raises(DataError, match="tasks of several pages cannot be read"):
        open_dataset(tmp_path)


def test_what_a_shape_is_called_besides_and_a_shape_that_is_called_nothing_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    both = {**STUDIO_BOX, "value": {**STUDIO, "rectanglelabels": ["cat", "dog"]}}
    named = [{**STUDIO_BOX, "id": "a", "type": "rectangle"}, {**STUDIO_BOX, "id": "a"}]
    bare = {**STUDIO_BOX, "id": "b", "type": "rectangle"}
    dataset = annotated(tmp_path, {"result": [both, *named, bare]})
    assert dataset[0].boxes.tensor.tolist() == [BOX, BOX]
    assert "p.json: 1 shape of several classes, of which the first counts" in caplog.text
    assert "1 label without area or class left out" in caplog.text
    with pytest.raises(DataError, match="have no object; points, lines and tags are none, nor are shapes without"):
        annotated(tmp_path, {"result": [bare]})
