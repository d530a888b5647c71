"""Cityscapes' instance ids, also of other classes and without cities, as CVAT and Datumaro write them."""

import numpy as np
import pytest
from variant_folders import BOX, IDS, IMAGE, write

from detkit.data import open_dataset
from detkit.registry import DataError

GROUP = (IDS > 0) * np.uint16(1)


def opened(root, ids, colours, city=""):
    image, below = f"leftImg8bit/default/{city}a_leftImg8bit.jpg", f"gtFine/default/{city}a_gtFine"
    write(root, {"label_colors.txt": colours, f"{below}_instanceIds.png": ids, f"imgsFine/{image}": IMAGE})
    return open_dataset(root)


@pytest.mark.parametrize("city", ["", "town/"])
@pytest.mark.parametrize("background", ["0 0 0 background\n", ""])
def test_classes_of_ones_own_are_numbered_in_the_order_of_their_colours(background, city, tmp_path):
    dataset = opened(tmp_path, GROUP * 1003, f"# colour, name\n{background}128 0 0 cat\n0 128 0 big dog\n", city)
    assert (dataset.class_names, dataset.splits, dataset.semantic_names) == (
        ("cat", "big dog"),
        ("default",),
        (),
    )
    record = dataset[0]
    assert (record.boxes.tensor.tolist(), record.classes.tolist(), record.crowd.tolist()) == ([BOX], [0], [False])
    write(tmp_path, {f"gtFine/default/{city}a_gtFine_instanceIds.png": GROUP * 2})
    assert (open_dataset(tmp_path)[0].classes.tolist(), open_dataset(tmp_path)[0].crowd.tolist()) == ([1], [True])


def test_the_colours_of_cityscapes_itself_change_nothing(tmp_path):
    names = [f"1 1 1 x{i}" for i in range(24)]
    dataset = opened(
        tmp_path, GROUP * 26001, "\n".join(["0 0 0 unlabeled", *names[1:], "220 20 60 person", "255 0 0 rider"])
    )
    assert [dataset.class_names[k] for k in dataset[0].classes] == ["car"]


def test_an_image_of_cityscapes_that_is_not_there_is_named(tmp_path):
    write(tmp_path, {"gtFine/val/x/a_gtFine_instanceIds.png": GROUP, "leftImg8bit/val/x/b_leftImg8bit.png": IMAGE})
    with pytest.raises(DataError, match=r"a_gtFine_instanceIds\.png: there is no image 'a_leftImg8bit'"):
        open_dataset(tmp_path)


def thing(label, x1, y1, x2, y2, **more):
    return {"label": label, "polygon": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]], **more}


def test_outlines_alone_are_drawn_one_over_the_other(tmp_path):
    things = [
        thing("sky", 0, 0, 39, 5),
        thing("car", 4, 3, 29, 11),
        thing("cargroup", 30, 20, 39, 29),
        thing("pole", 20, 0, 39, 12),
        thing("person", 0, 0, 5, 5, deleted=1),
        thing("car", 0, 20, 3, 21),
    ]
    content = {"imgHeight": 30, "imgWidth": 40, "objects": things}
    files = {"gtFine/val/x/a_gtFine_polygons.json": content, "leftImg8bit/val/x/a_leftImg8bit.png": IMAGE}
    write(tmp_path, files)
    dataset = open_dataset(tmp_path)
    record = dataset[0]
    assert (dataset.format, dataset.splits, dataset.semantic_names) == ("Cityscapes", ("val",), ())
    assert record.boxes.tensor.tolist() == [[30, 20, 40, 30], BOX, [0, 20, 4, 22]]
    assert [dataset.class_names[k] for k in record.classes] == ["car"] * 3
    assert record.crowd.tolist() == [True, False, False]
    assert [row["area"] for row in dataset.coco()["annotations"]] == [100, 144, 8]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"imgHeight": 30, "objects": []}, "expected imgHeight, imgWidth and objects"),
        ({"imgHeight": "x", "imgWidth": 40, "objects": []}, "expected imgHeight, imgWidth and objects"),
        ({"imgHeight": 1e9, "imgWidth": 40, "objects": []}, "its mask is of 40 x 1e"),
        (
            {"imgHeight": 30, "imgWidth": 40, "objects": [{"label": "car", "polygon": [[1, 2]]}]},
            "object 1: the outline",
        ),
    ],
)
def test_outlines_that_are_none_are_named(content, words, tmp_path):
    files = {"gtFine/val/x/a_gtFine_polygons.json": content, "leftImg8bit/val/x/a_leftImg8bit.png": IMAGE}
    write(tmp_path, files)
    with pytest.raises(DataError, match=rf"a_gtFine_polygons\.json(, |: ){words}"):
        open_dataset(tmp_path)


def test_label_ids_alone_are_told_from_instance_ids(tmp_path):
    write(tmp_path, {"gtFine/val/x/a_gtFine_labelIds.png": GROUP, "leftImg8bit/val/x/a_leftImg8bit.png": IMAGE})
    with pytest.raises(DataError, match=r"a_gtFine_labelIds\.png tells no objects apart; \*_instanceIds\.png do"):
        open_dataset(tmp_path)
