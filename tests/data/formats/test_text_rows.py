"""Text files of rows are known by their folders, read to their classes, and missed images are named together."""

import json
import unicodedata

import pytest
from variant_folders import BOX, IMAGE, PERSON, write

from detkit.data import open_dataset
from detkit.registry import DataError

CORNERS = "12 3 20 8 12 12 4 8"
KITTI = f"cat 0 0 0 4 3 20 12{' 1' * 7}\n"


@pytest.mark.parametrize(
    ("row", "label"),
    [("small vehicle 0", "small vehicle"), ("ship", "ship"), ("ship 2", "ship"), ("7 1", "7"), ("a 2 b", "a 2 b")],
)
@pytest.mark.parametrize("folder", ["labelTxt", "annfiles"])
def test_a_class_of_dota_may_have_spaces_and_no_difficulty(folder, row, label, tmp_path):
    write(tmp_path, {"train/images/a.png": IMAGE, f"train/{folder}/a.txt": f"gsd:0.1\n{CORNERS} {row}\n"})
    dataset = open_dataset(tmp_path)
    assert (dataset.class_names, dataset[0].boxes.tensor.tolist()) == ((label,), [BOX])


@pytest.mark.parametrize(("row", "options"), [(CORNERS[:7], {}), (CORNERS.replace(" ", ","), {"format": "dota"})])
def test_the_first_row_that_cannot_be_read_is_said(row, options, tmp_path):
    write(tmp_path, {"images/a.png": IMAGE, "labelTxt/a.txt": f"imagesource:x\n{row}\n"})
    with pytest.raises(DataError, match=rf"labelTxt/a\.txt, line 2: '{row}'; expected 8 coordinates, a class"):
        open_dataset(tmp_path, **options)


@pytest.mark.parametrize(
    "labels",
    [
        {f"labelTxt/{name}.txt": f"{CORNERS} ship 0\n" for name in "abc"},
        {f"label_2/{name}.txt": KITTI for name in "abc"},
        {"annotation_val.odgt": "\n".join(json.dumps({"ID": name, "gtboxes": [PERSON]}) for name in "abc")},
    ],
)
def test_all_images_that_are_missing_are_named_together(labels, tmp_path):
    write(tmp_path, {**labels, "images/a.png": IMAGE})
    with pytest.raises(
        DataError, match=r"names the image 'b', but .*put it there.* The same is wrong with 1 more: 'c'"
    ):
        open_dataset(tmp_path)


@pytest.mark.parametrize(("label", "image"), [("P1", "p1"), ("Größe", unicodedata.normalize("NFD", "Größe"))])
def test_an_image_may_be_written_otherwise_than_its_label(label, image, tmp_path):
    write(tmp_path, {f"images/{image}.png": IMAGE, f"labelTxt/{label}.txt": f"{CORNERS} ship 0\n"})
    assert open_dataset(tmp_path)[0].boxes.tensor.tolist() == [BOX]
