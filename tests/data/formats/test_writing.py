"""Datasets that are written in another format and read again are the same; so are predictions, within a pixel."""

import contextlib
import json

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from PIL import Image

from detkit.data import TableDataset, open_dataset
from detkit.data.formats import LABEL_WRITERS, ImageLabels
from detkit.data.formats.outlines import loops_of, one_polygon, outlines, simplified
from detkit.data.formats.writing import write_dataset
from detkit.registry import DataError

WRITERS = LABEL_WRITERS.by_key()
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
    names = {3: "cat", 4: "sea: lion & co", 5: "猫 \U0001f600"}
    return TableDataset(images, rows, names, image_root=str(tmp_path / "images"))


def raster(mask):
    return coco_mask.merge(coco_mask.frPyObjects(mask, *SIZE)) if isinstance(mask, list) else mask


@pytest.mark.parametrize("part", ["../../outside", "/outside", "a/../../../b"])
def test_a_part_whose_name_leads_out_of_the_folder_is_refused(part, dataset, tmp_path):
    with pytest.raises(DataError, match="leads out of"):
        write_dataset({part: dataset}, tmp_path / "out", "yolo")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", WRITERS)
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


@pytest.mark.parametrize("to", WRITERS)
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


def black():
    return np.zeros((*SIZE, 3), np.uint8)


def blob(seed):
    """A round mask with a rough rim, as a model predicts it."""
    y, x = np.mgrid[:60, :80]
    angle, away = np.arctan2(y - 30, x - 35), np.hypot(y - 30, x - 35)
    waves = np.random.default_rng(seed).normal(size=4)
    return away < 18 + sum(w * np.sin((k + 2) * angle) for k, w in enumerate(waves))


def predictions(masks):
    for number, mask in enumerate(masks):
        rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        row = {"image_id": 1, "category_id": 4 if number else 2, "bbox": coco_mask.toBbox(rle).tolist()}
        yield {**row, "score": 0.9 - number / 10, "segmentation": {**rle, "counts": rle["counts"].decode()}}


@pytest.fixture
def write_predictions(tmp_path):
    """Two images in folders, the first with predicted masks, the second without a prediction."""

    def write(to, masks, **images):
        rows = list(predictions(masks))
        with WRITERS[to](tmp_path / to, [{"id": 2, "name": "zebra"}, {"id": 4, "name": "ant"}], predicted=True) as out:
            for name in ("b a/x.png", "c/x.png"):
                out.add("", ImageLabels(name, SIZE, rows if name[0] == "b" else (), pixels=black))
        return tmp_path / to, out

    return write


@pytest.mark.parametrize("to", WRITERS)
def test_predictions_are_labels_that_load_again(to, write_predictions):
    masks = [blob(1), RING, np.roll(blob(2), 20, 1) & (np.arange(80) % 30 > 3)]
    folder, out = write_predictions(to, masks)
    assert out.lost["scores left out"] == (3 if to in ("yolo", "voc") else 0)
    dataset = open_dataset(folder)
    assert dataset.class_names == ("zebra", "ant")
    assert [len(dataset[i].boxes) for i in range(2)] == [3, 0]
    content = dataset.coco()
    assert [row["category_id"] for row in content["annotations"]] == [dataset.category_ids[k] for k in (0, 1, 1)]
    if to != "voc":  # which has one folder of images
        assert content["images"][0]["file_name"].endswith("b a/x.png")
    for row, mask in zip(content["annotations"], masks):
        expected = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        if to != "voc":  # in which small objects cover large ones
            assert coco_mask.iou([raster(row["segmentation"])], [expected], [0]).item() > 0.93


@pytest.mark.parametrize("seed", range(10))
def test_outlines_of_predictions_have_few_corners(seed):
    mask = blob(seed)
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    (exact,), (fewer,) = outlines(rle, SIZE), outlines(rle, SIZE, 1.0)
    assert len(fewer) < len(exact) / 3
    assert coco_mask.iou(coco_mask.frPyObjects([fewer], *SIZE), [rle], [0]).item() > 0.95


def test_no_corner_that_is_left_out_lies_farther_from_the_line_than_allowed():
    loop = np.cumsum(np.random.default_rng(0).normal(size=(60, 2)), 0)
    fewer = simplified(loop, 0.7)
    kept = [int(np.flatnonzero((loop == point).all(1))[0]) for point in fewer]
    for first, last in zip(kept, [*kept[1:], len(loop)]):
        a, b = loop[first], loop[last % len(loop)]
        for point in loop[first:last]:
            assert abs((b - a)[0] * (point - a)[1] - (b - a)[1] * (point - a)[0]) / np.linalg.norm(b - a) <= 0.7 + 1e-9


def test_tools_find_what_they_need_in_the_files(write_predictions):
    """The fields that LabelMe, Label Studio and COCO's API read of these files."""
    pieces = np.roll(blob(2), 20, 1) & (np.arange(80) % 30 > 3)
    shapes = json.loads((write_predictions("labelme", [pieces])[0] / "b a/x.json").read_text())
    assert (shapes["imagePath"], shapes["imageData"], shapes["imageHeight"]) == ("x.png", None, 60)
    assert {(s["label"], s["group_id"], s["shape_type"], s["description"]) for s in shapes["shapes"]} == {
        ("zebra", 1, "polygon", "score 0.900")
    }
    folder = write_predictions("label-studio", [blob(0)])[0]
    task = json.loads((folder / "tasks.json").read_text())[0]
    assert task["data"] == {"image": "/data/local-files/?d=images/b%20a/x.png"}
    result = task["predictions"][0]["result"][0]
    config = (folder / "label_config.xml").read_text()
    assert f'<PolygonLabels name="{result["from_name"]}" toName="{result["to_name"]}">' in config
    assert '<Image name="image" value="$image"/>' in config
    assert max(max(point) for point in result["value"]["points"]) <= 100
    content = json.loads((write_predictions("coco", [blob(0)])[0] / "annotations/instances_default.json").read_text())
    row = content["annotations"][0]
    assert (row["score"], row["iscrowd"], row["area"]) == (0.9, 0, float(blob(0).sum()))
    assert isinstance(row["segmentation"], list)


def test_predictions_without_masks_are_boxes(tmp_path):
    row = {"image_id": 1, "category_id": 1, "bbox": [-3, 5, 20, 10], "score": 0.5}
    for to in WRITERS:
        with WRITERS[to](tmp_path / to, [{"id": 1, "name": "cat"}], predicted=True) as out:
            out.add("", ImageLabels("x.png", SIZE, [row], pixels=black))
        x1, y1, x2, y2 = open_dataset(tmp_path / to)[0].boxes.tensor[0].tolist()
        assert (x1, y1, x2, y2) == pytest.approx((0, 5, 17, 15), abs=0.01)


@pytest.mark.parametrize("to", WRITERS)
def test_what_was_written_before_an_end_by_force_is_whole(to, tmp_path):
    image = ImageLabels("x.png", SIZE, list(predictions([blob(0)])), pixels=black)
    with contextlib.suppress(KeyboardInterrupt), WRITERS[to](tmp_path / to, [{"id": 2, "name": "cat"}]) as out:
        out.add("", image)
        raise KeyboardInterrupt
    assert len(open_dataset(tmp_path / to)[0].boxes) == 1
    assert not list((tmp_path / to).rglob("*.tmp"))


def test_what_a_person_corrected_in_label_studio_counts_before_predictions(write_predictions):
    folder, _ = write_predictions("label-studio", [blob(0), blob(1)])
    tasks = json.loads((folder / "tasks.json").read_text())
    (result, *_) = tasks[0]["predictions"][0]["result"]
    done = {"id": 1, "data": tasks[0]["data"], "annotations": [{"result": [result]}]}
    (folder / "z_export.json").write_text(json.dumps([{**done, "predictions": tasks[0]["predictions"]}]))
    dataset = open_dataset(folder)
    assert sorted(len(dataset[i].boxes) for i in range(2)) == [0, 1]
