"""Shapes that somebody began and left, or whose class somebody took away, hide no other and are counted."""

import pytest
from variant_folders import BOX, IMAGE, REGION, SHAPE, STUDIO, STUDIO_BOX, labelme, write

from detkit.data import open_dataset

OUTLINE = [[10, 10], [50, 10]]


def left(*points):
    return {"label": "cat", "points": [*points], "shape_type": "polygon"}


def studio(kind, **value):
    return {**STUDIO_BOX, "type": kind, "value": value}


def via(*values):
    return {"shape_attributes": {"name": "polygon", "all_points_x": [*values], "all_points_y": [*values]}}


SHAPES = {
    "LabelMe, two points": {"a.json": labelme(SHAPE, left([1, 1], [9, 9]))},
    "LabelMe, none": {"a.json": labelme(left(), SHAPE)},
    "LabelMe, as its first versions wrote": {"a.json": labelme(SHAPE, {"label": "cat", "points": OUTLINE})},
    "Label Studio, two points": [studio("polygonlabels", points=OUTLINE, polygonlabels=["cat"], closed=False)],
    "Label Studio, no class": [studio("rectanglelabels", **STUDIO, rectanglelabels=[])],
    "VIA, one point": {"via.json": {"a": {"filename": "a.png", "regions": [{"shape_attributes": REGION}, via(0)]}}},
}


@pytest.mark.parametrize("case", SHAPES)
def test_it_is_left_out_and_counted(case, tmp_path, caplog):
    caplog.set_level("INFO")
    files = SHAPES[case]
    if isinstance(files, list):
        files = {"p.json": [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [*files, STUDIO_BOX]}]}]}
    write(tmp_path, {**files, "a.png": IMAGE})
    assert open_dataset(tmp_path)[0].boxes.tensor.tolist() == [BOX]
    assert "1 label without area or class left out" in caplog.text
