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
