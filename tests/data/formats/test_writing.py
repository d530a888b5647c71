"""Datasets that are written in another format and read again are the same."""

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from PIL import Image

from detkit.data import TableDataset, open_dataset
from detkit.data.formats.outlines import loops_of, one_polygon
from detkit.data.formats.writing import write_dataset
from detkit.registry import DataError

SIZE = (60, 80)
RING = np.zeros(SIZE, bool)
RING[10:40, 10:40] = True
RING[20:30, 20:30] = False
PIECES = [[50, 5, 60, 5, 60, 15, 50, 15], [65, 20.5, 75.5, 20.5, 75.5, 33, 65, 33]]


@pytest.fixture
def dataset(tmp_path):
    """Two images in folders, of three classes, with a ring, two pieces, a box's rectangle, and a crowd."""
    for name in ("a/x.png", "b/x.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    boxes = ([10, 10, 30, 30], [50, 5, 25.5, 28], [5.25, 45, 20, 10], [0, 0, 80, 60])
    masks = (RING, PIECES, [[5.25, 45, 25.25, 45, 25.25, 55, 5.25, 55]], RING)
    rows = [
        {
            "id": 11 + i,
            "image_id": 7,
            "category_id": 3 + i % 3,
            "bbox": list(box),
            "segmentation": mask,
            "iscrowd": i == 3,
        }
        for i, (box, mask) in enumerate(zip(boxes, masks))
    ]
    images = [{"id": 7 + i, "file_name": f"{n}/x.png", "height": 60, "width": 80} for i, n in enumerate("ab")]
    names = {3: "cat", 4: "sea: lion & co", 5: "猫"}
    return TableDataset(images, rows, names, image_root=str(tmp_path / "images"))


def raster(mask):
    return coco_mask.merge(coco_mask.frPyObjects(mask, *SIZE)) if isinstance(mask, list) else mask


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
def test_boxes_masks_and_classes_survive(to, dataset, tmp_path):
    lost = write_dataset({"train": dataset}, tmp_path / to, to)
    assert lost == ([] if to == "coco" else ["1 crowds left out"])
    back = open_dataset(tmp_path / to, split="train")
    assert back.class_names == dataset.class_names
    assert len(back) == 2
    expected = [row for row in dataset.coco()["annotations"] if to == "coco" or not row["iscrowd"]]
    found = back.coco()["annotations"]
    assert len(found) == len(expected)
    for got, row in zip(found, expected):
        assert got["bbox"] == pytest.approx(row["bbox"], abs=0.01)
        masks = [raster(entry["segmentation"]) for entry in (got, row)]
        assert coco_mask.iou(masks[:1], masks[1:], [0]).item() > 0.99
    np.testing.assert_array_equal(back[0].image, dataset[0].image)
    if to == "coco":
        assert found == expected, "ids, areas and crowds too"


@pytest.mark.parametrize("number", range(40))
def test_an_outline_covers_the_pixels_of_its_mask(number):
    rng = np.random.default_rng(number)
    mask = rng.random(rng.integers(1, 30, 2)) < rng.choice([0.1, 0.5, 0.9])
    mask[0, 0] |= not mask.any()
    size = tuple(map(int, mask.shape))
    outline = one_polygon(coco_mask.encode(np.asfortranarray(mask, np.uint8)), size)
    np.testing.assert_array_equal(coco_mask.decode(coco_mask.frPyObjects([outline], *size)[0]).astype(bool), mask)
    following = [(loop, np.roll(loop, -1, 0)) for loop in loops_of(mask)]
    twice_area = sum((x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0]).sum() for x, y in following)
    assert twice_area == 2 * mask.sum(), "outer lines go clockwise, those of holes the other way"


def test_nothing_is_mixed_with_a_users_files(dataset, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty; give a new folder"):
        write_dataset({"train": dataset}, tmp_path / "mine", "coco")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
def test_images_whose_names_differ_only_in_suffix_case_or_folders_keep_their_own_labels(to, tmp_path):
    names = (
        "1.jpg",
        "1.png",
        "A/2.png",
        "a/2.PNG",
        "c__3.png",
        "c/3.png",
        "气" * 70 + ".png",
        "x/" + "y" * 250 + ".png",
    )
    for number, name in enumerate(names):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60), (number * 20,) * 3).save(tmp_path / "images" / name)
    images = [{"id": i, "file_name": name, "height": 60, "width": 80} for i, name in enumerate(names)]
    rows = [{"id": i, "image_id": i, "category_id": 1, "bbox": [10, 10, 10 + i, 20]} for i in range(len(names))]
    dataset = TableDataset(images, rows, {1: "cat"}, image_root=str(tmp_path / "images"))
    write_dataset({"train": dataset}, tmp_path / to, to)
    back = open_dataset(tmp_path / to, split="train")
    pairs = {(int(back[i].image[0, 0, 0]), *back[i].boxes.tensor[0].round().int().tolist()) for i in range(len(back))}
    assert {box[2] - box[0] for _, *box in pairs} == {10 + i for i in range(len(names))}
    assert all(abs(color - 20 * (x2 - x1 - 10)) <= 2 for color, x1, _, x2, _ in pairs)
