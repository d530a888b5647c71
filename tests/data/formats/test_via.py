"""The class of a VIA region is found among its attributes, and called as people see it."""

import pytest
from variant_folders import IMAGE, REGION, write

from detkit.data import open_dataset


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
