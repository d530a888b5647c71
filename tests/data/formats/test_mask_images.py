"""Images of ids belong to the photographs and class masks of their own folders."""

import numpy as np
import pytest
from variant_folders import IMAGE, write

from detkit.data import open_dataset
from detkit.registry import DataError

IDS = np.zeros((30, 40), np.uint8)
IDS[1:9, 1:9], IDS[12:20, 12:30] = 1, 2
NAMES = {"1": "cat", "2": "dog"}


@pytest.mark.parametrize("root", ["", "my_images/", "images/"])
@pytest.mark.parametrize("classes", ["a_mask.png", "a.png"])
@pytest.mark.parametrize("listed", ["", "my_images/"])
def test_the_photograph_is_that_of_images_and_the_classes_those_beside_it(root, classes, listed, tmp_path):
    masks = {f"{root}masks/a_mask.png": IDS, f"{root}classes/{classes}": IDS}
    write(tmp_path, {f"{root}images/a.png": IMAGE, f"{listed}classes.json": NAMES, **masks})
    dataset = open_dataset(tmp_path)
    assert dataset.image_path(0) == str(tmp_path / f"{root}images/a.png")
    assert [dataset.class_names[k] for k in dataset[0].classes] == ["cat", "dog"]


def test_a_mask_is_of_no_image_of_another_part(tmp_path):
    files = {"train/images/a.png": IMAGE, "train/masks/a.png": IDS, "val/images/b.png": IMAGE, "val/masks/a.png": IDS}
    write(tmp_path, files)
    with pytest.raises(DataError, match=r"val/masks/a\.png: there is no image of this name in 'val/images'"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({}, r"masks/a\.png: there is no 'classes/a\.png', which would say which of the classes"),
        ({"classes/a.png": IDS[:9]}, r"classes/a\.png: is of another size than 'masks/a\.png'"),
    ],
)
def test_several_classes_need_a_class_mask_for_each_image(tmp_path, classes, words):
    write(tmp_path, {"images/a.png": IMAGE, "masks/a.png": IDS, "classes.json": NAMES, **classes})
    with pytest.raises(DataError, match=words):
        open_dataset(tmp_path)


OBJECTS = {"masks/a/0.png": IDS == 1, "masks/a/1.png": IDS == 2}
LAYOUTS = {
    "DAVIS": {"JPEGImages/480p/bear/00000.jpg": IMAGE, "Annotations/480p/bear/00000.png": IDS},
    "U-Net": {"imgs/a.jpg": IMAGE, "masks/a_mask.png": IDS},
    "Carvana": {"train/a.jpg": IMAGE, "train_masks/a_mask.png": IDS},
    "a folder an image": {"images/a.jpg": IMAGE, **OBJECTS},
    "a folder an image in parts": {"train/images/a.jpg": IMAGE, **{f"train/{name}": m for name, m in OBJECTS.items()}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_lie_in_folders_of_many_names(layout, tmp_path):
    write(tmp_path, LAYOUTS[layout])
    dataset = open_dataset(tmp_path)
    assert (len(dataset), dataset.class_names, dataset.splits) == (
        1,
        ("object",),
        ("train",) * ("train" in str(LAYOUTS[layout])),
    )
    assert dataset[0].boxes.tensor.tolist() == [[1, 1, 9, 9], [12, 12, 30, 20]]


def test_an_image_without_files_of_objects_is_a_background(tmp_path):
    write(tmp_path, {"images/a.png": IMAGE, "images/b.png": IMAGE, **OBJECTS})
    assert [len(record.boxes) for record in open_dataset(tmp_path)] == [2, 0]


def test_ids_in_a_jpeg_are_refused(tmp_path):
    write(tmp_path, {"images/a.png": IMAGE, "masks/a.jpg": IDS * 100})
    with pytest.raises(
        DataError, match=r"masks/a\.jpg: is a JPEG, whose pixels are not exactly the ids; give the mask"
    ):
        open_dataset(tmp_path)
    write(tmp_path, {"masks/a.jpg": IDS * 0})
    assert len(open_dataset(tmp_path)[0].boxes) == 0


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_ids_above_255_are_kept_in_tiffs_of_any_numbers(kind, tmp_path):
    write(tmp_path, {"images/a.png": IMAGE, "masks/a.tif": (IDS.astype(kind) * 300)})
    assert open_dataset(tmp_path)[0].boxes.tensor.tolist() == [[1, 1, 9, 9], [12, 12, 30, 20]]
