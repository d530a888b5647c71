"""COCO files in folders: encodings, names and lists as they come."""

import json
import re
import unicodedata

import pytest
from PIL import Image
from small_folders import make_folder

from detkit.data import DATASETS, open_dataset
from detkit.data.formats import coco_folder, files
from detkit.registry import DataError

BOX = {"id": 5, "image_id": 7, "category_id": 3, "bbox": [2, 3, 20, 10], "area": 200, "iscrowd": 0}


@pytest.fixture
def folder(tmp_path):
    def write(file="a.png", name="a.png", encoding="utf-8", part="x", **lists):
        images = [{"id": 7, "file_name": name, "width": 40, "height": 30}]
        content = {"images": images, "annotations": [BOX], "categories": [{"id": 3, "name": "cat"}], **lists}
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / file)
        content = {key: value for key, value in content.items() if value is not None}
        (tmp_path / f"{part}.json").write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
        return tmp_path

    return write


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_files_of_other_encodings_are_known(folder, encoding):
    dataset = open_dataset(folder(encoding=encoding, categories=[{"id": 3, "name": "Käfer"}]))
    assert (dataset.format, dataset.class_names) == ("COCO", ("Käfer",))


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [("CocoFolder", "utf-8"), ("CocoFolder", "utf-16"), ("LvisFolder", "utf-8"), ("CocoPanopticFolder", "utf-8")],
)
def test_a_large_file_is_known_wherever_its_lists_stand(kind, encoding, tmp_path, monkeypatch):
    folder = make_folder(kind, tmp_path)
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text())
        content |= {"info": {"words": "x" * 999}, "licenses": ["y" * 999]}
        for entry in content["annotations"]:
            entry["attributes"] = "z" * 999
        file.write_text(json.dumps(content, sort_keys=True), encoding=encoding)
    expected = open_dataset(folder).coco()
    for module in (files, coco_folder):
        monkeypatch.setattr(module, "PEEK", 250)
    found = open_dataset(folder)
    assert (found.format, found.coco()) == (DATASETS.get(kind).format, expected)


POLYGON = [[2, 3, 22, 3, 22, 13, 2, 13]]
RLE = {"size": [30, 40], "counts": [2 * 30 + 3] + [10, 20] * 19 + [10, 30 * 40 - 63 - 19 * 30 - 10]}


@pytest.mark.parametrize("box", [{}, {"bbox": None}, {"bbox": []}])
@pytest.mark.parametrize("mask", [POLYGON, RLE])
def test_objects_without_boxes_have_those_of_their_masks(folder, mask, box, caplog):
    caplog.set_level("INFO")
    row = {key: value for key, value in BOX.items() if key != "bbox"} | box | {"segmentation": mask}
    dataset = open_dataset(folder(annotations=[row]))
    assert dataset[0].boxes.tensor.tolist() == [[2, 3, 22, 13]]
    assert "its annotations have no boxes, so these are the ones around their masks" in caplog.text
    with pytest.raises(DataError, match="annotation 6"):
        open_dataset(folder(annotations=[BOX, row | {"id": 6}]))  # one that lacks it is a mistake


@pytest.mark.parametrize("mask", [None, [], [[1, 2]], [[1, 2, "3", 4]], {"size": [3, 4], "counts": "x"}, "x"])
def test_an_object_without_a_box_or_a_mask_is_named(folder, mask):
    row = {key: value for key, value in BOX.items() if key != "bbox"} | {"segmentation": mask}
    with pytest.raises(DataError, match="annotation 5 has no 'bbox'"):
        open_dataset(folder(annotations=[row]))


@pytest.mark.parametrize(("ids", "words"), [(({}, {}), "no ids"), (({"id": "x"}, {"id": "y"}), "ids of text")])
def test_annotations_without_numbers_are_numbered(folder, ids, words, caplog):
    caplog.set_level("INFO")
    bare = {key: value for key, value in BOX.items() if key != "id"}
    dataset = open_dataset(folder(annotations=[bare | id_ for id_ in ids]))
    assert [row["id"] for row in dataset.coco()["annotations"]] == [1, 2]
    assert f"its annotations have {words}, so they are numbered from 1" in caplog.text
    with pytest.raises(DataError, match=r"annotations\[1\] has no 'id'"):
        open_dataset(folder(annotations=[BOX, bare]))


def test_a_test_set_without_annotations_is_known(folder):
    dataset = open_dataset(folder(annotations=None))
    assert [len(dataset[i].boxes) for i in range(len(dataset))] == [0]


def test_numbers_that_are_none_do_not_hide_the_images(folder):
    assert len(open_dataset(folder(annotations=[{**BOX, "area": float("nan")}]))[0].boxes) == 1


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("my%20cat.png", "my cat.png"),
        ("MY%20cat.png", "my%20cat.PNG"),
        (unicodedata.normalize("NFD", "bäume.png"), unicodedata.normalize("NFC", "bäume.png")),
        (unicodedata.normalize("NFC", "x/bäume.png"), unicodedata.normalize("NFD", "bäume.png")),
        ("C:\\data\\A.PNG", "a.png"),
    ],
)
def test_names_that_are_written_otherwise_find_their_images(folder, name, file):
    dataset = open_dataset(folder(file, name))
    assert dataset.image_path(0).endswith(file)
    assert dataset[0].image.shape == (30, 40, 3)


def test_of_names_that_differ_in_case_each_finds_its_own(folder):
    folder("A.png")
    assert open_dataset(folder("a.png", "x/A.png")).image_path(0).endswith("images/A.png")


@pytest.mark.parametrize("images", [[5], [{"id": 7, "file_name": ["a.png"], "width": 4, "height": 3}]])
def test_an_image_that_is_none_is_named(folder, images):
    with pytest.raises(DataError, match=r"x\.json: images\[0\] is .*file_name"):
        open_dataset(folder(images=images, annotations=[{**BOX, "area": float("nan")}]))


@pytest.mark.parametrize(
    ("entry", "label", "words"),
    [
        ({"id": [1]}, r"annotations\[0\]", "id is"),
        ({"id": None}, r"annotations\[0\]", "id is 'None'; expected int"),
        ({"category_id": 1}, "annotation 5", "category_id 1 is not listed"),
        ({"category_id": [3]}, "annotation 5", "category_id is"),
        ({"image_id": 8}, "annotation 5", "image_id 8 is not the id"),
        ({"image_id": [7]}, "annotation 5", "image_id is"),
        ({"bbox": ["x", 1, 2, 3]}, "annotation 5", "bbox is not four finite numbers"),
        (5, r"annotations\[0\]", "is '5'; expected a mapping"),
    ],
)
def test_a_wrong_object_of_one_part_among_several_is_named(folder, entry, label, words):
    folder(part="train")
    images = [{"id": 7, "file_name": "b.png", "width": 40, "height": 30}]
    wrong = [{**BOX, **entry} if isinstance(entry, dict) else entry, {**BOX, "id": 6}]
    root = folder(part="val", annotations=wrong, images=images, categories=[{"id": 3, "name": "dog"}])
    for split in (None, "val"):
        with pytest.raises(DataError, match=rf"/val\.json[:,] {label}.*{words}"):
            open_dataset(root, split=split)


@pytest.mark.parametrize(
    ("entry", "words"),
    [({"width": None}, "expected a name and whole numbers"), ({"id": [7]}, "has the id"), ({"id": 8}, "two images")],
)
def test_a_wrong_image_of_one_file_among_several_is_named(folder, entry, words):
    folder(part="train")
    images = [{"id": 7, "file_name": "b.png", "width": 40, "height": 30, **entry}]
    images.append({**images[0], "id": 8, "file_name": "c.png"})
    root = folder(part="val", images=images, annotations=[])
    for split in (None, "val"):
        with pytest.raises(DataError, match=rf"/val\.json: .*{words}"):
            open_dataset(root, split=split)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": [', "is not JSON"),
        ("", "is not JSON|empty"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 0.5}]', "detections"),
        ('{"shapes": []}\n{"shapes": []}', "several values"),
    ],
)
def test_a_lone_json_that_cannot_be_read_is_told_precisely(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=rf"a\.json.*({words})"):
        open_dataset(tmp_path)


def test_an_outline_that_crosses_itself_has_the_area_of_its_pixels(tmp_path):
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    shape = {"label": "cat", "points": [[10, 10], [50, 50], [50, 10], [10, 50]]}
    content = {"imagePath": "a.png", "imageHeight": 60, "imageWidth": 80, "shapes": [shape]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert open_dataset(tmp_path).coco()["annotations"][0]["area"] == pytest.approx(800, rel=0.1)


def test_an_image_id_of_another_type_is_said(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    images = [{"id": "7", "file_name": "a.png", "width": 40, "height": 30}]
    content = {"images": images, "annotations": [BOX], "categories": [{"id": 3, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"image_id 7 is not the id .*; '7' is one: write both as a number"):
        open_dataset(tmp_path)


def test_labels_without_area_are_no_objects(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    shape = {"label": "eye", "shape_type": "point", "points": [[1, 2]]}
    (tmp_path / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": [shape]}))
    with pytest.raises(DataError, match="its 1 images have no object; points, lines and tags are none"):
        open_dataset(tmp_path)


@pytest.fixture
def write_parts(tmp_path):
    """Writes a COCO file of the images of some numbers, each with one object of a category."""

    def write(name, numbers, category=None, **entry):
        images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in numbers]
        for image in images:
            Image.new("RGB", (40, 30)).save(tmp_path / image["file_name"])
        category = category or {"id": 3, "name": "cat"}
        rows = [{**BOX, "id": i, "image_id": i, "category_id": category["id"], **entry} for i in numbers]
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": rows, "categories": [category]}))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (range(4, 9), r"a\.json: 1 of its 5 images left out, other files have them"),
        (range(9), r"a\.json: left out, other files have all of its images"),
        (range(2), r"a\.json: 2 of its 5 images left out"),
    ],
)
def test_an_image_that_two_files_have_is_there_once_and_hides_no_other(write_parts, caplog, numbers, words):
    caplog.set_level("INFO", "detkit")
    write_parts("a.json", range(5), area=7)
    dataset = open_dataset(write_parts("b.json", numbers, area=5))
    content = dataset.coco()
    assert {image["file_name"] for image in content["images"]} == {f"{i}.png" for i in {*range(5), *numbers}}
    assert len(content["annotations"]) == len(dataset)
    later = {row["image_id"] for row in content["annotations"] if row["area"] == 5}
    assert later == {*numbers}, "the last file counts"
    assert re.search(words, caplog.text)


def test_keypoints_keep_their_names_whatever_ids_their_category_has_in_each_file(write_parts):
    points = {"keypoints": [2, 2, 2, 3, 3, 2], "num_keypoints": 2}
    spec = {"name": "person", "keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}
    write_parts("test.json", range(2))
    write_parts("train.json", range(2, 4), {"id": 7, **spec}, **points)
    root = write_parts("val.json", range(4, 6), {"id": 1, **spec}, **points)
    dataset = open_dataset(root)
    assert (dataset.class_names, dataset.keypoint_names, dataset.skeleton) == (
        ("cat", "person"),
        ("nose", "tail"),
        ((0, 1),),
    )
    write_parts("val.json", range(4, 6), {"id": 1, **spec, "keypoints": ["tail", "nose"]}, **points)
    with pytest.raises(DataError, match=r"val\.json: category 'person' has other keypoints than in another file"):
        open_dataset(root)


def test_masks_of_cvats_brush_are_objects_also_beside_points_of_skeletons(write_parts, caplog):
    caplog.set_level("INFO", "detkit")
    mask = {"size": [30, 40], "counts": [93, 9, 1098]}
    root = write_parts(
        "instances_default.json", range(2), {"id": 1, "name": "cat", "supercategory": ""}, iscrowd=1, segmentation=mask
    )
    file = root / "instances_default.json"
    content = json.loads(file.read_text())
    content["categories"].append({"id": 2, "name": "nose", "supercategory": "cat"})
    content["annotations"][1]["category_id"] = 2
    file.write_text(json.dumps(content))
    assert [row["iscrowd"] for row in open_dataset(root).coco()["annotations"]] == [0, 1]
    assert "1 masks of CVAT's brush, written as crowds, are taken as objects" in caplog.text


def test_vias_export_names_images_by_texts_and_lists_its_classes_once_an_image(folder, caplog):
    caplog.set_level("INFO")
    row = {**BOX, "image_id": "7", "segmentation": [2, 3, 22, 3, 22, 13, 2, 13]}
    root = folder(annotations=[row], categories=[{"id": 3, "name": "cat"}] * 3)
    dataset = open_dataset(root)
    assert (dataset.class_names, len(dataset[0].masks)) == (("cat",), 1)
    assert "x.json: its image_id are texts, as VIA writes them" in caplog.text
    folder(annotations=[row, {**BOX, "id": 6}])
    with pytest.raises(DataError, match=r"'7' is not the id .*; 7 is one: write both as a number"):
        open_dataset(root)


@pytest.mark.parametrize("file", ["000000000007.png", "COCO_val2014_000000000007.png"])
def test_images_of_lvis_may_be_those_of_2017_or_of_2014(file, folder):
    image = {"id": 7, "file_name": "COCO_val2014_000000000007.png", "width": 40, "height": 30, "neg_category_ids": []}
    for more in ({}, {"coco_url": "http://images.cocodataset.org/val2017/000000000007.png"}):
        dataset = open_dataset(folder(file=file, images=[image | more]))
        assert (dataset.format, dataset.image_path(0).split("/")[-1]) == ("LVIS", file)


@pytest.mark.parametrize("kind", ["captions", "image_info", "stuff"])
def test_files_without_objects_beside_others_of_their_part_are_left_out(folder, kind):
    images = [{"id": 7, "file_name": "a.png", "width": 0, "height": 0}]
    folder(part=f"{kind}_train", images=images, annotations=[], categories=[])
    dataset = open_dataset(folder(part="train"))
    assert [len(record.classes) for record in dataset] == [1]
