"""A mistake in a label is named with its file and its line or object, whatever the format."""

import json
import re

import pytest
from PIL import Image

from detkit.data import DATASETS, open_dataset
from detkit.registry import DataError
from detkit.utils.run_folder import begin_run

YOLO = {"data.yaml": "train: images\nnames: [cat, dog]\n", "images/a.png": None, "labels/a.txt": "0 .5 .5 .2 .2\n{}\n"}
VOC_XML = "<annotation><filename>a.png</filename><object><name>cat</name>{}</object></annotation>"
VOC_BOX = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
VOC = {"JPEGImages/a.png": None, "Annotations/a.xml": "{}"}
LABELME = {
    "a.png": None,
    "a.json": '{{"imagePath": "{image}", "imageHeight": 30, "imageWidth": 40, "shapes": [{shape}]}}',
}
CVAT = {
    "images/a.png": None,
    "annotations.xml": "<annotations><meta><labels><label><name>cat</name></label></labels></meta>"
    '<image id="7" name="{name}" width="40" height="30">{shape}</image></annotations>',
}
VIA = {"a.png": None, "via.json": '{{"a": {{"filename": "a.png", "regions": [{{"shape_attributes": {}}}]}}}}'}
KITTI = {"image_2/a.png": None, "label_2/a.txt": f"Car 0 0 0 1 2 9 9{' 0' * 7}\n{{}}\n"}
DOTA = {"images/a.png": None, "labelTxt/a.txt": "1 1 9 1 9 9 1 9 plane 0\n{}\n"}
CROWD = {"Images/a.png": None, "annotation_val.odgt": '{{"ID": "{id}", "gtboxes": [{box}]}}'}
OPEN = {
    "images/train/a.png": None,
    "annotations/train-annotations-bbox.csv": "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n{}\n",
    "annotations/class-descriptions.csv": "/m/1,cat\n",
}
SUPERVISELY = {
    "meta.json": '{"classes": [{"title": "cat"}]}',
    "train/img/a.png": None,
    "train/ann/a.png.json": '{{"size": {{"height": 30, "width": 40}}, "objects": [{}]}}',
}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="


def studio(value, kind="rectanglelabels"):
    result = {"type": kind, "value": value, "original_width": 40, "original_height": 30, "from_name": "label"}
    task = {"id": 5, "annotations": [{"result": [result]}], "data": {"image": "/data/upload/a.png"}}
    return {"a.png": None, "tasks.json": json.dumps([task])}


def filled(files, *values, **names):
    return {
        name: text if text is None or "{" not in text or name in ("meta.json",) else text.format(*values, **names)
        for name, text in files.items()
    }


def shape(**fields):
    return json.dumps(fields)


CORNERS = [[1, 1], [9, 1], [9, 9]]
FAR = [[1, 1], [1e12, 1], [9, 9]]
HOLED = {"exterior": CORNERS}
MASK = shape(label="cat", shape_type="mask", points=[[1, 1], [2, 2]], group_id=1, mask=PNG)
FAULTS = {
    "yolo word": (filled(YOLO, "0 .5 .5 x .2"), r"labels/a\.txt, line 2.*expected a class number"),
    "yolo class": (filled(YOLO, "2 .5 .5 .2 .2"), r"labels/a\.txt, line 2: the class is 2; expected 0 to 1"),
    "yolo pixels": (filled(YOLO, "1 20 15 10 10"), r"line 2: the coordinate 20 is not within 0\.\.1; .*not pixels"),
    "yolo count": (filled(YOLO, "1 .1 .1 .2"), r"line 2: 3 numbers follow the class"),
    "yolo odd": (filled(YOLO, "1 .1 .1 .2 .2 .3 .3 .4"), r"line 2: 7 numbers .* in pairs"),
    "yolo not a number": (filled(YOLO, "1 nan .1 .2 .2"), r"line 2: the coordinate nan"),
    "yolo split": (
        {**filled(YOLO, ""), "data.yaml": "train: pictures\nnames: [cat]\n"},
        r"data\.yaml: train: there is no 'pictures'",
    ),
    "yolo names": (
        {**filled(YOLO, ""), "data.yaml": "train: images\nnames: {a: cat}\n"},
        r"data\.yaml: names: expected a list",
    ),
    "yolo aliases": ({**filled(YOLO, ""), "data.yaml": "a: &x [1]\nnames: *x\n"}, r"data\.yaml: has YAML aliases"),
    "voc no box": (filled(VOC, VOC_XML.format("")), r"Annotations/a\.xml, object 1: has no bndbox"),
    "voc word": (filled(VOC, VOC_XML.format(VOC_BOX.format("x"))), r"a\.xml, object 1: its bndbox is not four numbers"),
    "voc reversed": (filled(VOC, VOC_XML.format(VOC_BOX.format(30))), r"a\.xml, object 1: its bndbox 30, .* no area"),
    "voc cut": (filled(VOC, "<annotation><object>"), r"a\.xml: is not XML"),
    "voc entities": (filled(VOC, "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>"), r"a\.xml: declares XML entities"),
    "voc image": ({"JPEGImages/b.png": None, **filled(VOC, VOC_XML.format(""))}, r"a\.xml, object 1"),
    "labelme type": (
        filled(LABELME, image="a.png", shape=shape(label="cat", shape_type="cube", points=CORNERS)),
        r"a\.json, shape 1: the shape_type is 'cube'",
    ),
    "labelme points": (
        filled(LABELME, image="a.png", shape=shape(label="cat", shape_type="polygon", points=CORNERS[:2])),
        r"a\.json, shape 1: the outline is .* at least 3 points",
    ),
    "labelme label": (
        filled(LABELME, image="a.png", shape=shape(shape_type="polygon", points=CORNERS)),
        r"a\.json, shape 1: has no label",
    ),
    "labelme image": (
        filled(LABELME, image="b.png", shape=shape(label="cat", shape_type="polygon", points=CORNERS)),
        r"a\.json names the image 'b\.png', but there is no such image",
    ),
    "cvat number": (
        filled(CVAT, name="a.png", shape='<box label="cat" xtl="1" ytl="x" xbr="9" ybr="9"/>'),
        r"annotations\.xml, image 7, shape 1 \(box\): xtl, .* expected 4 numbers",
    ),
    "cvat label": (
        filled(CVAT, name="a.png", shape='<box label="cow" xtl="1" ytl="1" xbr="9" ybr="9"/>'),
        r"image 7, shape 1 \(box\): 'cow' is none of the classes \(cat\)",
    ),
    "cvat runs": (
        filled(CVAT, name="a.png", shape='<mask label="cat" rle="1, 2" left="0" top="0" width="2" height="2"/>'),
        r"image 7, shape 1 \(mask\): its run lengths cover 3 pixels; expected 2 x 2",
    ),
    "cvat image": (filled(CVAT, name="b.png", shape=""), r"annotations\.xml, image 7 names the image 'b\.png'"),
    "via shape": (filled(VIA, '{"name": "star"}'), r"via\.json, a\.png, region 1: the shape is 'star'"),
    "via lengths": (
        filled(VIA, '{"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2]}'),
        r"region 1: has 3 values of x and 2 of y",
    ),
    "via rect": (filled(VIA, '{"name": "rect", "x": 1}'), r"region 1: x, y, width, height is .* expected 4 numbers"),
    "studio label": (studio({"x": 1, "y": 1, "width": 9, "height": 9}), r"task 0 \(id 5\), result 1: has no 'rect"),
    "studio number": (
        studio({"x": 1, "y": None, "width": 9, "height": 9, "rectanglelabels": ["cat"]}),
        r"tasks\.json, task 0 \(id 5\), result 1: x, y, width, height",
    ),
    "studio brush": (
        studio({"rle": [0, 0, 0, 1], "brushlabels": ["cat"]}, "brushlabels"),
        r"result 1: its rle ends before its last value",
    ),
    "kitti": (filled(KITTI, "Car 0 0"), r"label_2/a\.txt, line 2: 'Car 0 0'; expected a class and 14 numbers"),
    "dota": (filled(DOTA, "1 1 9 1 9 9 plane"), r"labelTxt/a\.txt, line 2: .*expected 8 coordinates"),
    "crowd box": (filled(CROWD, id="a", box='{"tag": "person", "fbox": [1, 2]}'), r"odgt, line 1, box 1: fbox is"),
    "crowd image": (filled(CROWD, id="b", box=""), r"odgt, line 1 names the image 'b', but there is no such image"),
    "open class": (filled(OPEN, "a,/m/2,.1,.2,.1,.2,0"), r"bbox\.csv, line 2: the class /m/2 is not in the class desc"),
    "open group": (filled(OPEN, "a,/m/1,.1,.2,.1,.2,yes"), r"bbox\.csv, line 2: IsGroupOf is 'yes'; expected 0, 1"),
    "open order": (filled(OPEN, "a,/m/1,.5,.2,.1,.2,0"), r"bbox\.csv, line 2: XMin 0\.5, XMax 0\.2"),
    "open image": (filled(OPEN, "b,/m/1,.1,.2,.1,.2,0"), r"bbox\.csv, line 2: there is no image of this ImageID"),
    "supervisely type": (
        filled(SUPERVISELY, shape(classTitle="cat", geometryType="blob")),
        r"ann/a\.png\.json, object 1: the geometryType is 'blob'",
    ),
    "supervisely class": (
        filled(SUPERVISELY, shape(classTitle="cow", geometryType="rectangle", points={"exterior": CORNERS[::2]})),
        r"ann/a\.png\.json, object 1: 'cow' is none of the classes",
    ),
    "supervisely bitmap": (
        filled(SUPERVISELY, shape(classTitle="cat", geometryType="bitmap", bitmap={"origin": [1, 1], "data": "AAAA"})),
        r"object 1: its embedded image cannot be read",
    ),
    "supervisely interior": (
        filled(SUPERVISELY, shape(classTitle="cat", geometryType="polygon", points=HOLED | {"interior": 5})),
        r"object 1: interior is 5; expected a list",
    ),
    "supervisely far": (
        filled(SUPERVISELY, shape(classTitle="cat", geometryType="polygon", points=HOLED | {"interior": [FAR]})),
        r"object 1: a corner of the outline is not a number of pixels below",
    ),
    "labelme far": (
        filled(LABELME, image="a.png", shape=f"{MASK}, {shape(label='cat', points=FAR, group_id=1)}"),
        r"shape 1: a corner of the outline is not a number of pixels below",
    ),
    "via regions": ({"a.png": None, "v.json": '{"a": {"filename": "a.png", "regions": 5}}'}, r"a\.png: regions is '5'"),
    "studio rotation": (
        studio({"x": 1, "y": 1, "width": 9, "height": 9, "rotation": "x", "rectanglelabels": ["cat"]}),
        r"result 1: the rotation is \['x'\]; expected 1 number",
    ),
    "studio value": (studio(None), r"result 1: its value is 'None'; expected a mapping"),
    "yolo keypoints": (
        {**filled(YOLO, ""), "data.yaml": "train: images\nnames: [cat]\nkpt_shape: [1000000000, 3]\n"},
        r"kpt_shape is \[1000000000, 3\]; expected the number of keypoints",
    ),
    "json cut": ({"a.png": None, "a.json": '{"shapes": [], "imagePath": '}, r"a\.json: is not JSON"),
}


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            Image.new("RGB", (40, 30)).save(path)
        else:
            path.write_text(text)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_place(fault, tmp_path):
    files, words = FAULTS[fault]
    write(tmp_path, files)
    with pytest.raises(DataError, match=words):
        open_dataset(tmp_path)


def test_unknown_content_is_told_with_what_is_readable(tmp_path):
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(DataError, match=r"no labels of a known format; there are 1 file of \.md\. Readable are .*YOLO"):
        open_dataset(tmp_path)


def test_the_folder_of_a_run_is_told_from_an_empty_one(tmp_path):
    with pytest.raises(DataError, match="there are no files"):
        open_dataset(tmp_path)
    begin_run(tmp_path)
    (tmp_path / "curves.png").touch()
    with pytest.raises(DataError, match="there are only files that a run of detkit has left"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("path", [None, ["a", "b"], 5])
def test_what_is_no_path_is_no_folder_of_its_name(path):
    with pytest.raises(DataError, match="expected a folder of data, or a file in it, got"):
        open_dataset(path)


def test_a_split_or_format_that_is_not_there_is_named(tmp_path):
    for name, text in filled(YOLO, "").items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / name) if text is None else (tmp_path / name).write_text(text)
    assert open_dataset(tmp_path, split="training").splits == ("train",)
    with pytest.raises(DataError, match=r"has no split 'val'; there are train"):
        open_dataset(tmp_path, split="val")
    with pytest.raises(DataError, match=r"there is no format 'yollo'\. Did you mean 'yolo'\?"):
        open_dataset(tmp_path, format="yollo")


def labelme(folder, numbers):
    for number in numbers:
        content = {"imagePath": f"{number}.png", "shapes": [{"label": "cat", "points": CORNERS}]}
        (folder / f"{number}.json").write_text(json.dumps(content))
        Image.new("RGB", (40, 30)).save(folder / f"{number}.png")


def test_a_folder_without_parts_is_divided_by_the_names_of_its_images(tmp_path):

    def names(split):
        dataset = open_dataset(tmp_path, split=split, val_fraction=0.25)
        return {image["file_name"] for image in dataset.coco()["images"]}

    labelme(tmp_path, range(60))
    train, val = names("train"), names("val")
    assert len(train) + len(val) == 60
    assert not train & val
    assert 5 <= len(val) <= 25
    labelme(tmp_path, range(60, 80))
    assert train < names("train")
    assert val < names("validation")
    with pytest.raises(DataError, match=r"no parts; val_fraction: 0\.2 makes train and val"):
        open_dataset(tmp_path, split="val")
    assert len(open_dataset(tmp_path)) == 80


@pytest.mark.parametrize("part", ["train", "val"])
def test_what_was_divided_before_is_divided_again(tmp_path, part):
    def named(split):
        return [row["file_name"] for row in open_dataset(tmp_path, split=split, val_fraction=0.2).coco()["images"]]

    labelme(tmp_path, range(100))
    first = set(named(part))
    for file in tmp_path.iterdir():
        if f"{file.stem}.png" not in first:
            file.unlink()
    train, val = named("train"), named("val")
    assert {*train, *val} == first
    assert 0.1 * len(first) - 1 <= len(val) <= 0.4 * len(first) + 1


def test_what_the_builder_finds_is_named_with_its_place_too(tmp_path):
    for name, text in filled(YOLO, "1 .5 .5 0 .2").items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / name) if text is None else (tmp_path / name).write_text(text)
    assert len(open_dataset(tmp_path).objects().classes) == 1
    with pytest.raises(DataError, match=r"labels/a\.txt, line 2: its bbox .* has no area"):
        open_dataset(tmp_path, invalid_boxes="error")


@pytest.mark.parametrize("group", ["1", "true", "True"])
def test_a_group_is_a_crowd_however_it_is_written(tmp_path, group):
    for value, crowd in ((group, 1), ("False", 0), ("-1", 0)):
        write(tmp_path / value, filled(OPEN, f"a,/m/1,.1,.5,.1,.5,{value}"))
        assert open_dataset(tmp_path / value).coco()["annotations"][0]["iscrowd"] == crowd


def test_text_that_is_ignored_or_not_is_refused(tmp_path):
    thing = '{"tag": "person", "fbox": [1, 2, 9, 9], "extra": {"ignore": "1"}}'
    write(tmp_path, {**CROWD, "annotation_val.odgt": '{"ID": "a", "gtboxes": [' + thing + "]}"})
    with pytest.raises(DataError, match="ignore is '1'; expected 0, 1"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("encoding", ["iso-8859-1", "windows-1251", "utf-16"])
def test_xml_is_read_in_the_encoding_that_it_declares(tmp_path, encoding):
    name = "кот" if encoding == "windows-1251" else "Käfer"
    text = VOC_XML.format(VOC_BOX.format(3)).replace("cat", name)
    write(tmp_path, {**VOC, "Annotations/a.xml": ""})
    declared = f'<?xml version="1.0" encoding="{encoding}"?>{text}'
    (tmp_path / "Annotations/a.xml").write_text(declared, encoding=encoding)
    assert open_dataset(tmp_path).class_names == (name,)


def test_json_of_another_encoding_is_refused(tmp_path):
    shape = '{"label": "狗", "shape_type": "rectangle", "points": [[1, 2], [9, 9]]}'
    write(tmp_path, filled(LABELME, image="a.png", shape=shape))
    text = (tmp_path / "a.json").read_text("utf-8")
    (tmp_path / "a.json").write_text(text, encoding="utf-16")
    assert open_dataset(tmp_path).class_names == ("狗",)
    (tmp_path / "a.json").write_text(text, encoding="gbk")
    with pytest.raises(DataError, match=r"a\.json: is not text in UTF-8; iconv"):
        open_dataset(tmp_path)


KINDS = {kind.key: kind for kind in map(DATASETS.get, DATASETS.names()) if hasattr(kind, "key")}


@pytest.mark.parametrize("key", KINDS)
def test_a_folder_without_anything_of_the_format_that_is_asked_for_says_so(tmp_path, key):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "x.txt").write_text("hi")
    words = rf"nothing of the format {re.escape(KINDS[key].format)}; there are 1 file of \.png, 1 file of \.txt$"
    with pytest.raises(DataError, match=words):
        open_dataset(tmp_path, format=key)
    with pytest.raises(DataError, match=r"x\.txt: holds nothing of the format"):
        open_dataset(tmp_path / "x.txt", format=key)
