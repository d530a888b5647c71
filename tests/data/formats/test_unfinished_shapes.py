"""What Label Studio exports unfinished (an outline that was begun, a class taken away) is left out and counted."""

import pytest
from variant_folders import BOX, IMAGE, STUDIO, STUDIO_BOX, write

from detkit.data import open_dataset

OUTLINE = [[10, 10], [50, 10]]


def studio(kind, **value):
    return {**STUDIO_BOX, "type": kind, "value": value}


SHAPES = {
    "Label Studio, two points": studio("polygonlabels", points=OUTLINE, polygonlabels=["cat"], closed=False),
    "Label Studio, no class": studio("rectanglelabels", **STUDIO, rectanglelabels=[]),
}


@pytest.mark.parametrize("case", SHAPES)
def test_it_is_left_out_and_counted(case, tmp_path, caplog):
    caplog.set_level("INFO")
    task = {"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [SHAPES[case], STUDIO_BOX]}]}
    write(tmp_path, {"p.json": [task], "a.png": IMAGE})
    assert open_dataset(tmp_path)[0].boxes.tensor.tolist() == [BOX]
    assert "1 label without area or class left out" in caplog.text
