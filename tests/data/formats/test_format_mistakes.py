"""Slips on the way from a labelling tool: what is missing is named, all of it, with what can be done."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from detkit.data import open_dataset
from detkit.data.image_files import _logged
from detkit.doctor import CheckContext, run_checks
from detkit.experiment import own_data
from detkit.registry import DataError


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 60, 3), value, np.uint8)).save(path)


def labelme(folder, labels):
    """A square of each label on an image of its own."""
    for i, label in enumerate(labels):
        picture(folder / f"{i}.png", 5 * i)
        shape = {"label": label, "shape_type": "polygon", "points": [[5, 5], [25, 5], [25, 25], [5, 25]]}
        content = {"shapes": [shape], "imagePath": f"{i}.png", "imageHeight": 40, "imageWidth": 60}
        (folder / f"{i}.json").write_text(json.dumps(content))
    return folder


def cvat(folder):
    shape = '<box label="cat" xtl="5" ytl="5" xbr="25" ybr="25" occluded="0"></box>'
    images = "".join(f'<image id="{i}" name="{i}.png" width="60" height="40">{shape}</image>' for i in range(4))
    (folder / "annotations.xml").write_text(f"<annotations><version>1.1</version>{images}</annotations>")
    for i in range(4):
        picture(folder / "images" / f"{i}.png")
    return folder


def via(folder):
    shape = {"name": "rect", "x": 5, "y": 5, "width": 20, "height": 20}
    regions = [{"shape_attributes": shape, "region_attributes": {"type": "cat"}}]
    entries = {f"{i}.png9": {"filename": f"{i}.png", "size": 9, "regions": regions} for i in range(4)}
    (folder / "via.json").write_text(json.dumps({"_via_img_metadata": entries, "_via_settings": {}}))
    for i in range(4):
        picture(folder / f"{i}.png")
    return folder


def yolo(folder):
    for i in range(4):
        picture(folder / "images" / f"{i}.png")
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / f"{i}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (folder / "data.yaml").write_text("train: images\nnames: [cat]\n")
    return folder


def yolo_list(folder):
    yolo(folder)
    (folder / "train.txt").write_text("".join(f"images/{i}.png\n" for i in range(4)))
    (folder / "data.yaml").write_text("train: train.txt\nnames: [cat]\n")


def coco(folder):
    images = [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 40} for i in range(4)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 20, 20]} for i in range(4)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (folder / "labels.json").write_text(json.dumps(content))
    for i in range(4):
        picture(folder / f"{i}.png")


def voc(folder, labelled=range(4)):
    box = "<xmin>6</xmin><ymin>6</ymin><xmax>25</xmax><ymax>25</ymax>"
    objects = f"<object><name>cat</name><bndbox>{box}</bndbox></object>"
    (folder / "Annotations").mkdir()
    for i in range(4):
        picture(folder / "JPEGImages" / f"{i}.png")
        if i in labelled:
            xml = f"<annotation><filename>{i}.png</filename>{objects}</annotation>"
            (folder / "Annotations" / f"{i}.xml").write_text(xml)


def voc_list(folder):
    voc(folder, labelled=(0, 3))
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("0.png\n1.png\n2.png\n3.png\n")


def findings(folder):
    return run_checks(CheckContext(own_data(folder).experiment()).load_data())


@pytest.mark.parametrize(
    "make", [lambda folder: labelme(folder, ["cat"] * 4), cvat, via, yolo_list, coco, voc, voc_list]
)
def test_all_images_that_are_missing_are_named_together(make, tmp_path):
    make(tmp_path)
    for i in (1, 2):
        next(tmp_path.rglob(f"{i}.png")).rename(tmp_path / f"renamed{i}.png")
    with pytest.raises(DataError, match=r"\b1\b.*(put it there, or take its label out|check).*1 more: '.*\b2(\.png)?'"):
        open_dataset(tmp_path)


def test_a_missing_image_whose_size_nothing_says_is_named_like_others(tmp_path):
    labelme(tmp_path, ["cat"] * 4)
    for i in (1, 2):
        path = tmp_path / f"{i}.json"
        path.write_text(path.read_text().replace('"imageHeight": 40, ', ""))
        (tmp_path / f"{i}.png").unlink()
    with pytest.raises(DataError, match=r"names the image '1\.png'.*1 more: '2\.png'"):
        open_dataset(tmp_path)


def test_labels_that_were_exported_without_images_are_told_from_missing_ones(tmp_path):
    cvat(tmp_path)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="put the images there, or export with them"):
        open_dataset(tmp_path)


def test_yolo_labels_without_an_image_are_not_lost_in_silence(tmp_path, caplog):
    """An image that was renamed would be learned as a background; text that is no label is no cause."""
    yolo(tmp_path)
    (tmp_path / "labels/classes.txt").write_text("cat\n")
    _logged.clear()
    with caplog.at_level(logging.WARNING):
        assert open_dataset(tmp_path).notes == ()
        assert "without an image" not in caplog.text
        (tmp_path / "images/2.png").rename(tmp_path / "images/renamed.png")
        assert open_dataset(tmp_path).notes == ("1 label file without an image left out, such as labels/2.txt",)
    assert "1 label file without an image left out, such as labels/2.txt; give image and label one name" in caplog.text


def test_a_row_of_vias_table_that_ends_early_is_said_in_words(tmp_path):
    picture(tmp_path / "0.png")
    (tmp_path / "via.csv").write_text(
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
        '0.png,9,"{}",1,0,"{""name"":""rect"",""x"":5,""y"":5,""width"":9,""height"":9}","{""type"":""cat""}"\n'
        "0.png,9,\n"
    )
    with pytest.raises(DataError, match=r"line 3: .*a row that ends early; export or save it again"):
        open_dataset(tmp_path)


def test_the_doctor_asks_whether_a_rare_class_is_a_misspelt_one(tmp_path):
    labels = ["balloon"] * 14 + ["ballon", "Balloon ", "red balloon"]
    (few,) = [finding for finding in findings(labelme(tmp_path, labels * 2)) if "fewer than" in finding.what]
    assert {words.split(":")[0]: "'balloon'" in words for words in few.examples} == {
        "ballon": True,
        "Balloon ": True,
        "red balloon": False,
    }
    assert "misspelt" in few.fix


def test_the_doctor_says_what_reading_took_otherwise(tmp_path):
    labelme(tmp_path, ["cat"] * 12)
    (tmp_path / "copy.json").write_bytes((tmp_path / "3.json").read_bytes())
    (note,) = [finding for finding in findings(tmp_path) if "more than once" in finding.what]
    assert note.severity == "note"


def test_a_folder_is_read_several_times_and_warned_of_once(tmp_path, caplog):
    labelme(tmp_path, ["cat"] * 12)
    content = json.loads((tmp_path / "3.json").read_text())
    content["shapes"] += [{"label": "cat", "shape_type": "rectangle", "points": [[30, 30], [40, 35]]}]
    (tmp_path / "3.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        own_data(tmp_path)
    assert [record.message for record in caplog.records if "without a mask" in record.message] == [
        f"{tmp_path}: 1 objects without a mask given their box as one"
    ]


def test_a_region_of_via_without_a_class_is_named_where_others_have_one(tmp_path):
    file = via(tmp_path) / "via.json"
    content = json.loads(file.read_text())
    entries = content["_via_img_metadata"]
    for name in ("1.png9", "3.png9"):
        entries[name]["regions"][0]["region_attributes"] = {}
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"1\.png, region 1: has no class \(as 1 more region\), and others have"):
        open_dataset(tmp_path)
    for entry in entries.values():
        entry["regions"][0]["region_attributes"] = {}
    file.write_text(json.dumps(content))
    assert open_dataset(tmp_path).class_names == ("object",)


def test_a_dataset_of_supervisely_without_its_project_is_known(tmp_path):
    picture(tmp_path / "ds/img/a.png")
    (tmp_path / "ds/ann").mkdir()
    thing = {"classTitle": "cat", "geometryType": "rectangle", "points": {"exterior": [[1, 1], [9, 9]]}}
    content = {"size": {"height": 40, "width": 60}, "objects": [thing]}
    (tmp_path / "ds/ann/a.png.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"a\.png\.json is of Supervisely, whose classes are in meta\.json: put that"):
        open_dataset(tmp_path)
