"""Parts keep their names, and labels of one part get no image of another."""

import pytest
from variant_folders import IMAGE, REGION, SHAPE, STUDIO_BOX, VOC, VOC_BOX, coco, labelme, write

from detkit.data import open_dataset
from detkit.data.formats.parts import by_purpose, part_of
from detkit.data.formats.writing import write_dataset
from detkit.registry import DataError

RECTANGLE = {"classTitle": "cat", "geometryType": "rectangle", "points": {"exterior": [[4, 3], [19, 11]]}}
SUPERVISELY = {"size": {"height": 30, "width": 40}, "objects": [RECTANGLE]}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("annotations/instances_minival2014.json", "minival"),
        ("annotations/instances_valminusminival2014.json", "valminusminival"),
        ("annotations/image_info_test-dev2017.json", "test-dev"),
        ("annotations/image_info_test2017.json", "test"),
        ("lvis_v1_minival_inserted_image_name.json", "minival"),
        ("VisDrone2019-DET-test-dev/images/a.jpg", "test-dev"),
        ("trainval.json", "trainval"),
        ("retrain/validated.json", ""),
    ],
)
def test_a_name_says_its_part(name, part):
    assert part_of(name) == part


def test_of_parts_that_are_for_the_same_the_usual_one_counts():
    assert by_purpose(["minival", "training", "Valid", "x", "test-dev"]) == {
        "train": "training",
        "val": "Valid",
        "test": "test-dev",
    }
    assert by_purpose(["trainval", "minival"]) == {"train": "trainval", "val": "minival"}


def numbered(first, *names):
    content = coco(*names)
    for image, row in zip(content["images"], content["annotations"]):
        row["id"], row["image_id"], image["id"] = (first + image["id"],) * 3
    return content


def test_parts_of_coco_may_share_images_which_keep_their_ids(tmp_path):
    folder = {"train2014/t.png": IMAGE, "val2014/m.png": IMAGE, "val2014/v.png": IMAGE}
    files = {
        "train": numbered(1, "t.png"),
        "val": numbered(5, "m.png", "v.png"),
        "minival": numbered(5, "m.png"),
        "valminusminival": numbered(6, "v.png"),
    }
    write(tmp_path, {**folder, **{f"annotations/instances_{part}2014.json": text for part, text in files.items()}})
    dataset = open_dataset(tmp_path)
    assert {*dataset.splits} == {*files}
    assert sorted(image["id"] for image in dataset.coco()["images"]) == [1, 5, 6]
    assert {part: len(open_dataset(tmp_path, split=part)) for part in files} == {
        "train": 1,
        "val": 2,
        "minival": 1,
        "valminusminival": 1,
    }
    (tmp_path / "annotations/instances_val2014.json").unlink()
    assert len(open_dataset(tmp_path, split="val")) == 1, "minival is to evaluate on"


def test_parts_of_ones_own_names_survive_in_coco(tmp_path):
    files = {"meta.json": {"classes": [{"title": "cat"}]}}
    for part in ("ds1", "night/deep"):
        files |= {f"{part}/ann/a.png.json": SUPERVISELY, f"{part}/img/a.png": IMAGE}
    write(tmp_path / "in", files)
    parts = {part: open_dataset(tmp_path / "in", split=part) for part in open_dataset(tmp_path / "in").splits}
    write_dataset(parts, tmp_path / "out", "coco")
    back = open_dataset(tmp_path / "out")
    assert (back.splits, len(back)) == (("ds1", "night/deep"), 2)
    assert open_dataset(tmp_path / "out", split="ds1").image_path(0) == str(tmp_path / "out/images/ds1/a.png")


CATS = {"meta.json": {"classes": [{"title": "cat"}]}}
REGIONS = [{"shape_attributes": REGION, "region_attributes": {}}]
PARTS = ("train", "valid")
BOTH = [(part, name) for part in PARTS for name in "ab"]
WITHOUT = {
    "COCO": {f"{part}/_annotations.coco.json": coco("a.png", "b.png") for part in PARTS},
    "LabelMe": {f"{part}/{name}.json": labelme(SHAPE, image=f"{name}.png") for part, name in BOTH},
    "VOC": {f"{part}/{name}.xml": VOC.format(f"{name}.png", VOC_BOX) for part, name in BOTH},
    "VIA": {f"{part}/via.json": {n: {"filename": f"{n}.png", "regions": REGIONS} for n in "ab"} for part in PARTS},
    "Supervisely": CATS | {f"{part}/ann/{name}.png.json": SUPERVISELY for part, name in BOTH},
    "Supervisely's datasets": CATS | {f"{part}1/ann/{name}.png.json": SUPERVISELY for part, name in BOTH},
}


@pytest.mark.parametrize("case", WITHOUT)
def test_labels_whose_image_is_missing_get_no_image_of_another_part(case, tmp_path):
    below = {"Supervisely": "{}/img/{}.png", "Supervisely's datasets": "{}1/img/{}.png"}.get(case, "{}/{}.png")
    images = [below.format(*image) for image in BOTH]
    write(tmp_path, {**WITHOUT[case], **dict.fromkeys(images[1:], IMAGE)})
    with pytest.raises(DataError, match=r"a\.png'?.*(there is no such image file|is of another (part|dataset))"):
        open_dataset(tmp_path)
    write(tmp_path, {images[0]: IMAGE})
    assert len(open_dataset(tmp_path)) == 4


def test_of_images_of_one_name_each_file_gets_those_below_its_folder(tmp_path):
    tasks = [{"id": 1, "data": {"image": "/data/upload/1/a.png"}, "annotations": [{"result": [STUDIO_BOX]}]}]
    via = {"a": {"filename": "a.png", "regions": REGIONS}}
    for kind, content in (("studio", tasks), ("via", via)):
        for place in ("cam1", "cam2"):
            write(tmp_path / kind, {f"{place}/p.json": content, f"{place}/images/a.png": IMAGE})
        dataset = open_dataset(tmp_path / kind)
        paths = [dataset.image_path(i).removeprefix(f"{tmp_path / kind}/") for i in range(2)]
        assert paths == ["cam1/images/a.png", "cam2/images/a.png"]


def test_labels_that_were_divided_find_images_that_were_not(tmp_path):
    files = {f"annotations/instances_{part}.json": coco(f"{part}.png") for part in ("train", "val")}
    write(tmp_path, {**files, "val2017/train.png": IMAGE, "val2017/val.png": IMAGE})
    assert open_dataset(tmp_path, split="train").image_path(0) == str(tmp_path / "val2017/train.png")
