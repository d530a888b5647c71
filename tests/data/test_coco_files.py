"""Files that people have: other encodings, other tools' JSON, names written otherwise, numbers beyond all bounds."""

import json
import logging
import shutil
import subprocess
import unicodedata

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from PIL import Image

from detkit.data import AutoDataset, CocoInstances
from detkit.data.datasets.classes import choose_classes
from detkit.data.datasets.coco import read_categories
from detkit.data.datasets.keypoints import KeypointSpec
from detkit.data.issues import raise_errors
from detkit.registry import DataError

H, W = 40, 60
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def entry(id_=5, **other):
    return {"id": id_, "image_id": 1, "category_id": 2, "bbox": [10, 10, 20, 20], "segmentation": [SQUARE], **other}


def coco(*annotations, file_name="1.png", **image):
    return {
        "images": [{"id": 1, "file_name": file_name, "height": H, "width": W, **image}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dög"}],
        "annotations": list(annotations) or [entry()],
    }


@pytest.fixture
def read(tmp_path):
    Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(tmp_path / "1.png")

    def load(content, **options):
        path = tmp_path / "instances.json"
        text = content if isinstance(content, bytes | str) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return CocoInstances(json_file=str(path), image_root=str(tmp_path), **options)

    return load


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_every_unicode_encoding_of_json_is_read(read, encoding):
    data = read(json.dumps(coco(), ensure_ascii=False).encode(encoding))
    assert data.class_names == ("cat", "dög")
    assert len(data[0].objects) == 1


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "gbk"])
@pytest.mark.parametrize("where", ["name", "image_id"])
def test_another_encoding_is_named_with_the_command_that_mends_it(read, encoding, where):
    content = coco(entry(image_id="ö")) if where == "image_id" else coco()
    with pytest.raises(DataError, match=r"instances\.json: is not UTF-8: .*iconv -f"):
        read(json.dumps(content, ensure_ascii=False).replace("ö", "ê").encode(encoding))


FOREIGN = {
    "VIA": {"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": [], "file_attributes": {}}},
    "VIA project": {"_via_settings": {}, "_via_img_metadata": {"a": {"filename": "a", "regions": []}}},
    "LabelMe": {"version": "5.0", "flags": {}, "shapes": [], "imagePath": "a.jpg", "imageData": None},
    "Label Studio": [{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}],
    "detections": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 0.5}],
    "CreateML": [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 1}}]}],
    "Detectron2": [{"file_name": "a.jpg", "annotations": []}],
    "BDD100K": [{"name": "a.jpg", "labels": []}],
    "Supervisely": {"description": "", "size": {"height": 1, "width": 1}, "objects": []},
    "Cityscapes": {"imgHeight": 1, "imgWidth": 1, "objects": []},
    "captions": {"images": [], "annotations": [{"image_id": 1, "id": 1, "caption": "a cat"}], "info": {}},
    "panoptic": coco({"image_id": 1, "file_name": "1.png", "segments_info": []}),
    "GeoJSON": {"type": "FeatureCollection", "features": []},
    "VIA 3": {"project": {}, "config": {}, "attribute": {}, "file": {}, "metadata": {}, "view": {}},
    "Datumaro": {"info": {}, "categories": {"label": {"labels": []}}, "items": []},
    "V7 Darwin": {"version": "2.0", "item": {"name": "a.jpg"}, "annotations": []},
    "Labelbox": [{"data_row": {"id": "a"}, "media_attributes": {}, "projects": {}}],
    "FiftyOne": {"samples": [{"filepath": "a.jpg"}]},
    "JSON a line": "\n".join(json.dumps({"id": number}) for number in range(3)),
    "correct it at": str(coco()),
    "ends too early": json.dumps(coco())[:-40],
    "it is empty": "",
    "gzip": b"\x1f\x8b\x08\x00",
    "Git LFS": "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "XML": "\n<annotation><folder>VOC</folder></annotation>",
    "'annotation' meant for 'annotations'": {"images": [], "annotation": [], "categories": []},
}


@pytest.mark.parametrize("what", FOREIGN)
def test_the_file_of_another_tool_is_called_by_its_name(read, what):
    with pytest.raises(DataError, match=rf"instances\.json: .*{what.removesuffix(' project')}") as error:
        read(FOREIGN[what])
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "shape",
    [
        [[[10, 10], [30, 10], [30, 30], [10, 30]]],
        [[10, 10], [30, 10], [30.0, 30], [10, 30]],
        [[[10, 10], [30, 10], [30, 30]], [[10, 10], [30, 30], [10, 30]]],
    ],
)
def test_points_in_pairs_are_a_polygon(read, shape):
    assert read(coco(entry(segmentation=shape)))[0].objects.masks.bitmaps().areas().tolist() == [400]


@pytest.mark.parametrize("shape", [[[10, 10], [30, 30]], [[[10, 10], [30, 10, 5], [30, 30]]], [[["a", 1], [2, 3]]]])
def test_what_is_no_polygon_in_pairs_either_is_named(read, shape):
    with pytest.raises(DataError, match=r"annotation 5.*(polygon of fewer than 3 points|segmentation holds)"):
        read(coco(entry(segmentation=shape)))


@pytest.mark.parametrize("ids", [(0, 1), (7, 3)])
def test_a_root_category_of_the_same_name_is_the_same_class(read, ids):
    root, child = ids
    content = coco(entry(category_id=child), entry(6, category_id=9))
    content["categories"] = [
        {"id": root, "name": "cells", "supercategory": "none"},
        {"id": child, "name": "cells", "supercategory": "cells"},
        {"id": 9, "name": "dust", "supercategory": "cells"},
    ]
    data = read(content)
    assert dict(zip(data.class_names, data.category_ids)) == {"cells": child, "dust": 9}
    assert data[0].objects.classes.tolist() == [data.class_names.index("cells"), data.class_names.index("dust")]
    content["categories"][0]["supercategory"] = "cells"
    with pytest.raises(DataError, match="two categories are named 'cells'"):
        read(content)


def test_a_test_set_without_annotations_is_a_set_without_objects(read, caplog):
    content = coco()
    del content["annotations"]
    with caplog.at_level(logging.WARNING):
        assert len(read({**content, "info": {}, "licenses": []})[0].objects) == 0
    assert "has no 'annotations'" in caplog.text


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Sub\\Ä 1.PNG", "sub/ä 1.png"),
        ("sub/a%20b.png", "sub/a b.png"),
        ("sub/a b.png", "sub/a%20b.png"),
        (unicodedata.normalize("NFD", "é/ü.png"), unicodedata.normalize("NFC", "é/ü.png")),
        (unicodedata.normalize("NFC", "é/ü.png"), unicodedata.normalize("NFD", "é/ü.png")),
        ("./SUB//straße.png", "sub/STRASSE.png"),
    ],
)
def test_a_name_that_is_written_otherwise_finds_its_file(read, tmp_path, caplog, name, file):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((H, W, 3), 7, np.uint8)).save(path)
    with caplog.at_level(logging.WARNING):
        data = read(coco(file_name=name))
    assert "1 file names are written otherwise" in caplog.text
    assert data.image_path(0) == str(path)
    assert data[0].image.max() == 7
    assert data.coco()["images"][0]["file_name"] == name


def test_a_name_that_may_mean_two_files_or_one_outside_finds_none(read, tmp_path):
    for file in ("b.png", "B.PNG", "sub/B.png", "sub/b.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(tmp_path / file)
    for name in ("b.PNG", "SUB/b.PNG", "sub\\..\\1.PNG", "%2e%2e/1.PNG", str(tmp_path / "1.PNG")):
        with pytest.raises(DataError, match=r"no such image file|leads out of"):
            read(coco(file_name=name))


NINES = "9" * 5000
BEYOND = {
    "digits of an id": (json.dumps(coco()).replace('"id": 5', f'"id": {NINES}'), "64 bits|annotations"),
    "digits of a box": (json.dumps(coco()).replace("[10, 10, 20, 20]", f"[10, 10, 20, {NINES}]"), "not four finite"),
    "digits of a height": (json.dumps(coco()).replace('"height": 40', f'"height": {NINES}'), "whole numbers above 0"),
    "digits of a category": (json.dumps(coco()).replace('"id": 2', f'"id": -{NINES}'), "an id .a whole number"),
    "surrogate in a name": (json.dumps(coco(file_name="\ud800.png")), r"file_name '\\ud800.png'"),
    "surrogate in an id": (json.dumps(coco(id="\udbff")), r"images\[0\]|image '\\udbff'"),
    "surrogate in a class": (json.dumps(coco()).replace('"cat"', '"\\ud800"'), "category 1 is"),
    "surrogate in a key": (json.dumps(coco({**entry(), "\ud800": 1, "iscrowd": "no"})), "annotation 5: iscrowd"),
    "height 1e300": (json.dumps(coco(height=1e300)), "whole numbers above 0"),
    "sides of 1e9": (json.dumps(coco(height=10**9, width=10**9)), r"1e\+09 x 1e\+09 pixels.*tiles"),
    "runs beyond 64 bits": (
        json.dumps(coco(entry(segmentation={"size": [H, W], "counts": [2**63, 2**63, 2**64, H * W]}))),
        "annotation 5: its RLE counts",
    ),
    "runs that overflow to the right sum": (
        json.dumps(coco(entry(segmentation={"size": [H, W], "counts": [2**62] * 3 + [2**62 + H * W]}))),
        "annotation 5: the runs of its RLE",
    ),
    "a negative run": (
        json.dumps(coco(entry(segmentation={"size": [H, W], "counts": [-5, H * W + 5]}))),
        "annotation 5: its RLE has a run of -5",
    ),
    "size that is a number": (
        json.dumps(coco(entry(segmentation={"size": 5, "counts": [1]}))),
        "annotation 5: its RLE",
    ),
    "counts that are a mapping": (
        json.dumps(coco(entry(segmentation={"size": [H, W], "counts": {"a": 1}}))),
        "annotation 5: its RLE counts",
    ),
    "deep nesting": (json.dumps(coco()).replace("[[10, 10,", "[" * 5000 + "10, 10,"), "is not JSON"),
    "iscrowd 2": (json.dumps(coco(entry(iscrowd=2))), "annotation 5: iscrowd is 2; expected 0, 1"),
    "iscrowd of half": (json.dumps(coco(entry(iscrowd=0.5))), "annotation 5: iscrowd is 0.5"),
    "iscrowd 'false'": (json.dumps(coco(entry(iscrowd="false"))), "annotation 5: iscrowd is 'false'"),
    "iscrowd NaN": (json.dumps(coco(entry(iscrowd=float("nan")))), "annotation 5: iscrowd is nan"),
    "iscrowd list": (json.dumps(coco(entry(iscrowd=[]))), r"annotation 5: iscrowd is \[\]"),
}


@pytest.mark.parametrize("what", BEYOND)
def test_what_is_beyond_all_bounds_is_refused_by_file_and_entry(read, what):
    text, words = BEYOND[what]
    with pytest.raises(DataError, match=rf"instances\.json.*({words})") as error:
        read(text)
    assert len(str(error.value)) < 500
    str(error.value).encode()


@pytest.mark.parametrize("value", [0, 1, False, True, None])
def test_five_values_say_whether_it_is_a_crowd(read, value):
    assert read(coco(entry(iscrowd=value)))[0].objects.crowd.tolist() == [bool(value)]


@pytest.mark.parametrize("width", [1e-8, 1e-5, 9e-6])
def test_a_box_that_float32_cannot_hold_is_left_out_by_the_reader(read, width):
    data = read(coco(entry(), entry(6, bbox=[30, 10, width, 5])))
    assert data[0].objects.annotation_ids.tolist() == [5]
    assert "1 boxes without area in their image left out" in data.summary()


@pytest.mark.parametrize("lines", [[[[1, 2], [1, 2]]], [[1, True]], [[1.0, 2]], [[[1], 2]], [{"1": 2}], [[1]], "ab"])
def test_a_skeleton_that_is_none_is_refused(lines):
    with pytest.raises(ValueError, match="expected pairs of keypoints"):
        KeypointSpec.from_coco({"keypoints": ["a", "b"], "skeleton": lines})


def test_very_many_categories_are_read():
    entries = [{"id": number, "name": str(number)} for number in range(60_000)]  # minutes, were each compared with all
    names, _ = read_categories(entries, "a.json", raise_errors)
    classes, index = choose_classes(names, None, "a.json")
    assert len(classes) == len(index) == 60_000
    assert choose_classes(names, [name for _, name in classes[::-1]], "a.json")[1][0] == 59_999


def test_a_mask_of_an_image_of_any_size_is_not_laid_out(read):
    height, width = 40_000, 50_000
    rectangle = coco_mask.frPyObjects([SQUARE], height, width)[0]
    shape = {"size": [height, width], "counts": rectangle["counts"].decode()}
    data = read(coco(entry(segmentation=shape), height=height, width=width), check_images=0)
    assert data.objects().extents.tolist() == [[10, 10, 30, 30]]


POLYGON = {"all_points_x": [10, 30, 30, 10], "all_points_y": [10, 10, 30, 30], "name": "polygon"}
TO_READ = {
    "VIA": {
        "1.png9": {
            "filename": "1.png",
            "size": 9,
            "file_attributes": {},
            "regions": [{"shape_attributes": POLYGON, "region_attributes": {"kind": "cat"}}],
        }
    },
    "LabelMe": {
        "version": "5.0",
        "flags": {},
        "imagePath": "1.png",
        "imageData": None,
        "imageHeight": H,
        "imageWidth": W,
        "shapes": [{"label": "cat", "points": [[10, 10], [30, 10], [30, 30]], "shape_type": "polygon", "flags": {}}],
    },
    "Label Studio": [
        {
            "id": 1,
            "data": {"image": "/data/local-files/?d=1.png"},
            "annotations": [
                {
                    "result": [
                        {
                            "type": "rectanglelabels",
                            "original_width": W,
                            "original_height": H,
                            "id": "a",
                            "from_name": "label",
                            "to_name": "image",
                            "value": {"x": 10, "y": 10, "width": 50, "height": 50, "rectanglelabels": ["cat"]},
                        }
                    ]
                }
            ],
        }
    ],
}


@pytest.mark.parametrize("what", TO_READ)
def test_the_dataset_that_the_message_names_reads_the_folder(read, tmp_path, what):
    with pytest.raises(DataError, match=rf"{what}.*name: AutoDataset, path: FOLDER"):
        read(TO_READ[what])
    data = AutoDataset(path=str(tmp_path))
    assert data.class_names == ("cat",)
    assert len(data[0].objects) == 1


def test_the_command_that_the_message_names_converts_the_file(read, tmp_path):
    if shutil.which("iconv") is None:
        pytest.skip("no iconv")
    with pytest.raises(DataError, match="iconv -f") as error:
        read(json.dumps(coco(), ensure_ascii=False).encode("latin-1"))
    command = str(error.value).split("; ")[1].split(" converts")[0].replace("OLD.json", "instances.json")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert read((tmp_path / "NEW.json").read_bytes()).class_names == ("cat", "dög")
