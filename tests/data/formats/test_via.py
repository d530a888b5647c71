"""The class of a VIA region is found among its attributes, and called as people see it."""

import csv
import io

import pytest
from variant_folders import BOX, IMAGE, REGION, VIA3, VIA_CSV, write

from detkit.data import open_dataset
from detkit.data.formats import files
from detkit.registry import DataError


def project(given, options):
    region = {"shape_attributes": REGION, "region_attributes": given}
    kinds = {"Text": {"type": "text"}, "type": {"type": "radio", "options": options}}
    images = {"a.png1": {"filename": "a.png", "size": 1, "regions": [region], "file_attributes": {}}}
    return {"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": {"region": kinds, "file": {}}}


@pytest.mark.parametrize("key", ["type", "Type", "CLASS", "Name"])
def test_the_attribute_of_a_class_is_known_in_any_case(key, tmp_path):
    write(tmp_path, {"via.json": project({"Text": "12.50", key: "total"}, {}), "a.png": IMAGE})
    assert open_dataset(tmp_path).class_names == ("total",)


@pytest.mark.parametrize(
    ("value", "options", "label"),
    [
        ("1", {"1": "total", "2": "date"}, "total"),
        ("1", {"1": ""}, "1"),
        ("1", {}, "1"),
        ("1", None, "1"),
        ("bird", {"bird": "A bird of any kind"}, "bird"),
    ],
)
def test_a_choice_that_is_a_number_is_called_by_its_description(value, options, label, tmp_path):
    write(tmp_path, {"via.json": project({"Text": "12.50", "type": value}, options), "a.png": IMAGE})
    assert open_dataset(tmp_path).class_names == (label,)


def regions(root, *given, **more):
    found = [{"shape_attributes": REGION, "region_attributes": attributes} for attributes in given]
    write(root, {"via.json": {"a": {"filename": "a.png", **more, "regions": found}}, "a.png": IMAGE})
    dataset = open_dataset(root)
    return [dataset.class_names[number] for number in dataset.table.classes.tolist()]


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ([{"name": "", "type": "cat"}, {"name": "Rex", "type": "dog"}], ["cat", "dog"]),
        (
            [{"name": "cat", "type": ""}, {"name": "dog", "type": ""}, {"name": "cat", "type": "big"}],
            ["cat", "dog", "cat"],
        ),
        ([{"fruit": "apple", "ripe": "yes"}, {"fruit": "pear", "ripe": ""}], ["apple", "pear"]),
        ([{"name": "cat"}, {"class": "dog", "note": "blurred"}, {"class": "cat"}], ["cat", "dog", "cat"]),
        ([{"class": 1}, {"class": 2.5}], ["1", "2.5"]),
    ],
)
def test_all_regions_have_their_class_from_one_attribute(given, labels, tmp_path):
    assert regions(tmp_path, *given) == labels


@pytest.mark.parametrize("given", [{"class": "", "note": "blurred"}, {"note": "blurred"}, {"class": {"dog": False}}])
def test_another_attribute_is_no_class(given, tmp_path):
    with pytest.raises(DataError, match=r"a\.png, region 2: has no class, and others have"):
        regions(tmp_path, {"class": "dog", "note": ""}, given)


def test_all_parts_have_their_classes_from_the_same_attribute(tmp_path):
    kinds = {"train": [{"type": "cat", "name": ""}] * 2, "val": [{"type": "cat", "name": "Tom"}]}
    for part, given in kinds.items():
        regions(tmp_path / part, *given)
    assert [open_dataset(tmp_path, split=part).class_names for part in kinds] == [("cat",)] * 2


def test_which_attribute_is_the_class_and_several_ticked_ones_are_said(tmp_path, caplog):
    caplog.set_level("INFO")
    assert regions(tmp_path, {"class": {"cat": True, "dog": True}, "note": "x"}) == ["cat"]
    assert "the class of a region is its attribute 'class'" in caplog.text
    assert "1 region of several classes, of which the first counts" in caplog.text
    content = {**VIA3, "metadata": {"1_a": {"vid": "1", "xy": [2, 4, 3, 16, 9], "av": {"1": "1,0"}}}}
    write(tmp_path / "3", {"via.json": content, "a.png": IMAGE})
    assert open_dataset(tmp_path / "3").class_names == ("cat",)


def test_version_1_may_hold_images_in_front_of_its_regions(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "HEAD", 100)
    assert regions(tmp_path, {}, base64_img_data="x" * 999) == ["object"]


def test_a_table_that_excel_saved_is_read(tmp_path):
    write(tmp_path, {"a.png": IMAGE, "b.png": IMAGE})
    rows = list(csv.reader(io.StringIO(VIA_CSV)))
    with open(tmp_path / "via.csv", "w", newline="") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    dataset = open_dataset(tmp_path)
    assert (dataset.class_names, len(dataset), dataset[0].boxes.tensor.tolist()) == (("cat",), 2, [BOX])
    (tmp_path / "via.csv").write_text(VIA_CSV.replace("region_attributes\n", "attributes_of_region\n"))
    with pytest.raises(DataError, match=r"line 2: is not of VIA's CSV \(it has no 'region_attributes'\)"):
        open_dataset(tmp_path)


def test_an_address_may_go_on_behind_the_image(tmp_path):
    write(tmp_path, {"via.json": project({"class": "cat"}, {}), "a.png": IMAGE})
    text = (tmp_path / "via.json").read_text().replace('"filename": "a.png"', '"filename": "https://x.org/a.png?raw=1"')
    (tmp_path / "via.json").write_text(text)
    assert open_dataset(tmp_path).image_path(0) == str(tmp_path / "a.png")
