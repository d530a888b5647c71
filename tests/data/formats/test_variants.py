"""Folders as tools and their versions write them: what each says in its own way is read to the same images."""

import base64
import contextlib
import random
import unicodedata
import zlib

import numpy as np
import pytest
from test_damaged_files import damaged
from variant_folders import CASES, IMAGE, NAMES, SHAPE, VIDEO, VOC, VOC_BOX, YOLO, coco, labelme, png, write

from detkit.data import open_dataset
from detkit.registry import DataError


@pytest.mark.parametrize("case", CASES)
def test_a_folder_is_read_to_its_images_and_boxes(case, tmp_path):
    files, boxes, parts = CASES[case]
    write(tmp_path, files)
    dataset = open_dataset(tmp_path)
    assert {part.replace("valid", "val").replace("validation", "val") for part in dataset.splits} == {*parts}
    found = {}
    for index in range(len(dataset)):
        stem = unicodedata.normalize("NFC", dataset.image_path(index)).split("/")[-1].rpartition(".")[0]
        found[stem] = [[round(v, 3) for v in box] for box in dataset[index].boxes.tensor.tolist()]
    assert found == boxes


def opened(root, files):
    write(root, files)
    return open_dataset(root)


@pytest.mark.parametrize(("shape", "points"), [([2, 3], ".4 .5 2 0 0 0"), ([2, 2], ".4 .5 0 0")])
def test_keypoints_follow_a_box_in_yolo(tmp_path, shape, points):
    head = f"train: images\nnames: [cat]\nkpt_shape: {shape}\nkpt_names: {{0: [left ear, right ear]}}\n"
    row = YOLO.replace("\n", f" {points}\n")
    dataset = opened(tmp_path, {"data.yaml": head, "images/a.png": IMAGE, "labels/a.txt": row})
    assert dataset.keypoint_names == ("left ear", "right ear")
    assert dataset.keypoint_flip_pairs == ((0, 1),)
    row = dataset.coco()["annotations"][0]
    assert row["keypoints"] == [16, 15, 2, 0, 0, 0]
    assert row["bbox"] == pytest.approx([4, 3, 16, 9])
    (tmp_path / "data.yaml").write_text(head.replace("left ear, right ear", "a, b") + "flip_idx: [1, 0]\n")
    assert open_dataset(tmp_path).keypoint_flip_pairs == ((0, 1),)
    (tmp_path / "data.yaml").write_text(f"{head}flip_idx: [0, 1]\n")
    assert open_dataset(tmp_path).keypoint_flip_pairs == ()
    (tmp_path / "data.yaml").write_text(f"{head}flip_idx: [1, 2]\n")
    with pytest.raises(DataError, match=r"flip_idx is \[1, 2\]; expected each of 0 to 1 once"):
        open_dataset(tmp_path)
    (tmp_path / "data.yaml").write_text(head)
    (tmp_path / "labels/a.txt").write_text(YOLO)
    with pytest.raises(DataError, match=r"line 1: 4 numbers follow the class; expected 4 and 2 x [23], as kpt_shape"):
        open_dataset(tmp_path)


def test_names_that_leave_a_number_out_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"data\.yaml: names: expected .* 0: name lines from 0 on"):
        opened(
            tmp_path, {"data.yaml": "train: images\nnames: {0: a, 2: b}\n", "images/a.png": IMAGE, "labels/a.txt": YOLO}
        )


def test_turned_boxes_and_a_wrong_number_of_classes_are_said(tmp_path, caplog):
    caplog.set_level("INFO")
    files, *_ = CASES["turned boxes"]
    opened(tmp_path, {**files, "data.yaml": "train: images\nnc: 3\n" + NAMES})
    assert "nc is 3, but there are 2 names, which count" in caplog.text
    assert "all outlines have four corners; if they are turned boxes (OBB)" in caplog.text


def test_a_frame_without_an_image_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"track 0: there is no image of its frame 1, 'frame_000001'; export the images"
    ):
        opened(tmp_path, {"annotations.xml": VIDEO, "images/frame_000000.png": IMAGE})


def test_an_archive_is_to_be_unpacked(tmp_path):
    (tmp_path / "export.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"export\.zip is an archive; unpack it"):
        open_dataset(tmp_path / "export.zip")
    with pytest.raises(DataError, match=r"1 file of \.zip\. export\.zip is an archive: unpack it\. Readable are"):
        open_dataset(tmp_path)


def test_labels_of_yolo_without_names_are_known(tmp_path):
    with pytest.raises(DataError, match=r"for YOLO, write a data\.yaml with 'names: \[first, second\]'"):
        opened(tmp_path, {"images/a.png": IMAGE, "labels/a.txt": YOLO})


def test_a_shape_of_supervisely_and_one_of_labelme_as_pixels(tmp_path):
    mask = np.zeros((9, 16), bool)
    mask[2:, :] = True
    shape = {**SHAPE, "shape_type": "mask", "points": [[4, 3], [19, 11]], "mask": png(mask)}
    assert opened(tmp_path / "a", {"a.json": labelme(shape), "a.png": IMAGE}).coco()["annotations"][0]["area"] == 112
    bitmap = {"origin": [4, 3], "data": base64.b64encode(zlib.compress(base64.b64decode(png(mask)))).decode()}
    thing = {"classTitle": "cat", "geometryType": "alpha_mask", "bitmap": bitmap}
    content = {"size": {"height": 30, "width": 40}, "objects": [thing]}
    files = {"meta.json": {"classes": [{"title": "cat"}]}, "ds/ann/a.png.json": content, "ds/img/a.png": IMAGE}
    assert opened(tmp_path / "b", files).coco()["annotations"][0]["area"] == 112


def test_no_image_of_kittis_val_is_trained_on(tmp_path):
    files = {**CASES["lists of images"][0]}
    del files["ImageSets/train.txt"]
    write(tmp_path, files)
    stems = {part: open_dataset(tmp_path, split=part).image_path(0)[-5:] for part in ("train", "val")}
    assert stems == {"train": "b.png", "val": "a.png"}


def test_other_labels_in_the_folder_are_said(tmp_path, caplog):
    files = {"coco.json": coco("a.png"), "a.png": IMAGE, "a.txt": YOLO, "data.yaml": NAMES}
    assert opened(tmp_path, files).format == "COCO"
    assert "read as COCO, and there are labels of YOLO" in caplog.text
    assert "format 'yolo' takes these" in caplog.text
    caplog.clear()
    assert open_dataset(tmp_path, format="yolo").format.startswith("YOLO")
    assert open_dataset(tmp_path / "coco.json").format == "COCO"
    assert "takes these" not in caplog.text


def test_shapes_of_supervisely_that_say_nothing_are_those_of_their_class(tmp_path):
    points = {"exterior": [[4, 3], [20, 3], [20, 12]], "interior": []}
    thing = {"classTitle": "cat", "type": "object", "bitmap": None, "points": points}
    files = {"meta.json": {"classes": [{"title": "cat", "shape": "polygon"}]}, "ds/img/a.png": IMAGE}
    content = {"size": {"height": 30, "width": 40}, "objects": [thing, {**thing, "geometryType": "point"}]}
    dataset = opened(tmp_path, {**files, "ds/ann/a.json": content})
    assert [row["area"] for row in dataset.coco()["annotations"]] == [72]


def test_a_group_of_labelme_may_mix_masks_and_outlines_and_needs_no_size(tmp_path, caplog):
    caplog.set_level("INFO")
    mask = {**SHAPE, "shape_type": "mask", "points": [[4, 3], [19, 11]], "mask": png(np.ones((9, 16), bool))}
    outline = {**SHAPE, "shape_type": "quadrilateral", "points": [[20, 12], [30, 12], [30, 22], [20, 22]]}
    rectangle, line = {**SHAPE, "points": [[30, 3], [34, 5]]}, {**SHAPE, "shape_type": "line"}
    shapes = [{**shape, "group_id": 1} for shape in (mask, outline, rectangle)]
    content = {key: value for key, value in labelme(*shapes, line).items() if not key.startswith("imageH")}
    row = opened(tmp_path, {"a.json": content, "a.png": IMAGE}).coco()["annotations"][0]
    assert (row["area"], row["bbox"]) == (144 + 100 + 8, [4, 3, 30, 19])
    assert "1 label without area or class left out" in caplog.text


def test_labelme_is_known_beside_other_files(tmp_path):
    files = {f"{name}.json": {"notes": []} for name in ("about", "classes", "config")}
    assert (
        opened(tmp_path, {**files, "img.json": labelme(SHAPE, image="img.png"), "img.png": IMAGE}).format == "LabelMe"
    )


def test_a_file_of_the_same_images_is_left_out_and_said(tmp_path, caplog):
    caplog.set_level("INFO")
    files = {"v1.json": coco("a.png", bbox=[1, 1, 5, 5]), "v2.json": coco("a.png"), "a.png": IMAGE}
    assert opened(tmp_path, files).coco()["annotations"][0]["bbox"] == [4, 3, 16, 9]
    assert "v1.json: left out, other files have all of its images" in caplog.text


@pytest.mark.parametrize(
    ("head", "where"),
    [
        ("train: ../images/train\n", ""),
        ("path: ..\ntrain: images/train\n", ""),
        ("path: ../ds\ntrain: images/train\n", "ds/"),
        ("path: ../ds\ntrain: train.txt\n", "ds/"),
        ("train: ../ds/images/train\nval: ../ds/images/val\n", "ds/"),
    ],
)
def test_a_yaml_may_mean_folders_that_are_not_below_its_own(tmp_path, head, where):
    files = {f"{where}images/train/a.png": IMAGE, f"{where}labels/train/a.txt": YOLO, "other/b.png": IMAGE}
    write(tmp_path, {**files, f"{where}train.txt": "images/train/a.png\n", "conf/data.yaml": head + NAMES})
    for path in ("conf/data.yaml",):
        dataset = open_dataset(tmp_path / path, split="train")
        assert (dataset.format, len(dataset), len(dataset[0].boxes)) == ("YOLO", 1, 1)


@pytest.mark.parametrize("case", CASES)
def test_damage_gives_a_dataset_or_the_projects_error(case, tmp_path):
    rng, (files, *_) = random.Random(case), CASES[case]
    write(tmp_path, files)
    texts = [tmp_path / name for name, content in files.items() if isinstance(content, str | dict | list) and content]
    sound = {file: file.read_text() for file in texts}
    for _ in range(8 if texts else 0):
        file = rng.choice(texts)
        file.write_text(damaged(sound[file], rng))
        with contextlib.suppress(DataError):  # any other exception fails
            dataset = open_dataset(tmp_path)
            [dataset[index] for index in range(len(dataset))]
        file.write_text(sound[file])


@pytest.mark.parametrize("line", ["{}.png", r"C:\kitti\image_2\{}.png", "image_2/{}"])
def test_kittis_lists_may_name_the_images_files(line, tmp_path):
    row = "Car 0.00 3 -1.65 4 3 20 12 1.86 0.60 2.02 4.59 1.32 45.84 -1.55\n"
    for part, name in (("train", "a.1"), ("val", "b")):
        write(tmp_path, {f"label_2/{name}.txt": row, f"image_2/{name}.png": IMAGE})
        write(tmp_path, {f"ImageSets/{part}.txt": line.format(name) + "\n"})
    assert [len(open_dataset(tmp_path, split=part)) for part in ("train", "val")] == [1, 1]


def test_images_of_kitti_that_are_not_there_are_named_together(tmp_path):
    row = "Car 0.00 3 -1.65 4 3 20 12 1.86 0.60 2.02 4.59 1.32 45.84 -1.55\n"
    write(tmp_path, {**{f"label_2/{name}.txt": row for name in "abc"}, "image_2/a.png": IMAGE})
    with pytest.raises(DataError, match=r"label_2/b\.txt names the image 'b', but .* The same .* 1 more: 'c'"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(("encoding", "label"), [("gb2312", "图"), ("ISO-8859-1", "Bär"), ("utf-8", "图")])
def test_xml_is_read_in_the_encoding_that_it_declares(encoding, label, tmp_path):
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + VOC.format("a.png", VOC_BOX).replace("cat", label)
    write(tmp_path, {"a.png": IMAGE})
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    assert open_dataset(tmp_path).class_names == (label,)
