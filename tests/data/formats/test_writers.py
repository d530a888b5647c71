"""What each format keeps of parts, boxes and turned images, and that the rest is counted."""

import json

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import yaml
from PIL import Image
from small_folders import make_folder

from detkit.data import TableDataset, open_dataset
from detkit.data.datasets.row_reader import Policy
from detkit.data.formats import LABEL_WRITERS
from detkit.data.formats.writing import write_dataset
from detkit.data.images import ImageReading

WRITERS = LABEL_WRITERS.by_key()
SIZE = (60, 80)


def one_image(folder, rows, gray=0, **options):
    """A dataset of one image, ``x.png``."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", SIZE[::-1], (gray,) * 3).save(folder / "x.png")
    images = [{"id": 1, "file_name": "x.png", "height": SIZE[0], "width": SIZE[1]}]
    return TableDataset(images, rows, {1: "cat"}, image_root=str(folder), **options)


def test_parts_of_yolo_have_the_names_that_its_tools_know(tmp_path):
    dataset = one_image(tmp_path, [])
    write_dataset(dict.fromkeys(("Training", "valid", "dev", "test"), dataset), tmp_path / "yolo", "yolo")
    lines = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())
    folders = {"train": "images/Training", "val": ["images/valid", "images/dev"], "test": "images/test"}
    assert {key: value for key, value in lines.items() if key != "names"} == folders
    back = open_dataset(tmp_path / "yolo")
    assert (back.splits, len(back)) == (("train", "val", "test"), 4)


@pytest.mark.parametrize("to", WRITERS)
def test_images_of_one_name_stay_with_their_parts_whatever_these_are_called(to, tmp_path):
    parts = {}
    for number, part in enumerate(("day_1", "night_1", "far/away")):
        row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 10 + number, 20]}
        parts[part] = one_image(tmp_path / str(number), [row], gray=90 * number)
    write_dataset(parts, tmp_path / to, to)
    back = open_dataset(tmp_path / to)
    pairs = [(back[i].image[0, 0, 0].item(), back[i].boxes.tensor[0].tolist()) for i in range(len(back))]
    assert sorted((color // 90, round(x2 - x1) - 10) for color, (x1, _, x2, _) in pairs) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("to", WRITERS)
def test_a_box_that_is_not_around_its_mask_survives_or_is_counted(to, tmp_path):
    outline = [10, 10, 30, 10, 30, 30, 10, 30]
    rle = coco_mask.frPyObjects([outline], *SIZE)[0]
    rows = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], "segmentation": [outline]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [5, 10, 25, 20], "segmentation": rle},
        {"id": 3, "image_id": 1, "category_id": 1, "bbox": [9.5, 10, 21, 20], "segmentation": [outline]},
        {"id": 4, "image_id": 1, "category_id": 1, "bbox": [-9, 5, 18, 8]},
    ]
    dataset = one_image(tmp_path, rows, policy=Policy(invalid_masks="box"))
    lost = write_dataset({"train": dataset}, tmp_path / to, to)
    words = "2 boxes that are not around their masks replaced by the boxes around them"
    assert [line for line in lost if "boxes" in line] == ([] if to in ("coco", "voc") else [words])
    found = [row["bbox"] for row in open_dataset(tmp_path / to).coco()["annotations"]]
    assert (np.abs(np.subtract(found, [row["bbox"] for row in rows]))[:3] > 1.01).any() == (to not in ("coco", "voc"))


@pytest.mark.parametrize("to", WRITERS)
@pytest.mark.parametrize(
    ("tag", "size", "orientation"), [(6, (60, 80), "auto"), (6, (80, 60), "auto"), (3, (60, 80), "stored")]
)
def test_labels_stay_on_what_they_are_of_in_images_that_their_tag_turns(to, tag, size, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(np.pad(np.full((10, 20, 3), 255, np.uint8), ((5, 45), (3, 57), (0, 0)))).save(
        tmp_path / "x.jpg", exif=exif
    )
    images = [{"id": 1, "file_name": "x.jpg", "height": size[0], "width": size[1]}]
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 5, 20, 10]}
    reading = ImageReading(orientation=orientation)
    dataset = TableDataset(images, [row], {1: "cat"}, image_root=str(tmp_path), reading=reading)
    write_dataset({"train": dataset}, tmp_path / to, to)
    back = open_dataset(tmp_path / to)[0]
    np.testing.assert_array_equal(back.image, dataset[0].image)
    np.testing.assert_allclose(back.boxes.tensor, dataset[0].boxes.tensor, atol=0.01)
    assert {path.suffix for path in (tmp_path / to).rglob("x.[jp][pn]g")} == {".jpg" if size == (80, 60) else ".png"}


LISTS = {"neg_category_ids": [9], "not_exhaustive_category_ids": [4]}


@pytest.mark.parametrize("to", WRITERS)
def test_the_classes_that_were_looked_for_in_an_image_survive_in_coco_and_are_counted_elsewhere(to, tmp_path):
    row = {"id": 1, "image_id": 1, "category_id": 4, "bbox": [3, 5, 20, 10], "segmentation": [[3, 5, 23, 5, 23, 15]]}
    images = [{"id": 1, "file_name": "my_x.png", "height": SIZE[0], "width": SIZE[1], **LISTS}]
    categories = [{"id": id_, "name": name, "frequency": "r"} for id_, name in ((4, "cat"), (9, "dog"))]
    (tmp_path / "lvis").mkdir()
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "lvis/my_x.png")
    content = {"images": images, "annotations": [{**row, "area": 200}], "categories": categories}
    (tmp_path / "lvis/lvis.json").write_text(json.dumps(content))
    dataset = open_dataset(tmp_path / "lvis")
    assert dataset.format == "LVIS"
    lost = write_dataset({"train": dataset}, tmp_path / to, to)
    assert lost == ([] if to == "coco" else ["1 images' lists of classes that were looked for left out"])
    if to == "coco":
        back, own = open_dataset(tmp_path / to).coco(), dataset.coco()
        assert back["images"] == [{**own["images"][0], "file_name": "images/train/my_x.png"}]
        assert back["categories"] == own["categories"]


@pytest.mark.parametrize("to", WRITERS)
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("CocoPanopticFolder", "2 maps of stuff left out"),
        ("KittiDataset", "1 regions of every class turned to crowds of the first class"),
    ],
)
def test_maps_and_regions_of_every_class_are_counted(to, kind, words, tmp_path):
    source = make_folder(kind, tmp_path / "source")
    if kind == "KittiDataset":
        label = next(source.rglob("*.txt"))
        label.write_text(label.read_text() + f"DontCare -1 -1 -10 1 2 9 9{' -1' * 7}\n")
        words = words if to == "coco" else "1 crowds left out"
    assert words in write_dataset({"train": open_dataset(source)}, tmp_path / to, to)


@pytest.mark.parametrize("to", WRITERS)
@pytest.mark.parametrize("name", ["two\nlines", "a\r\nb", "one\u2028line", "x\x85y"])
def test_a_name_with_a_line_break_is_one_class(to, name, tmp_path):
    (tmp_path / "x").mkdir()
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "x/x.png")
    images = [{"id": 1, "file_name": "x.png", "height": SIZE[0], "width": SIZE[1]}]
    rows = [{"id": k, "image_id": 1, "category_id": k, "bbox": [10 * k, 10, 5, 20]} for k in (1, 2)]
    dataset = TableDataset(images, rows, {1: name, 2: "cat"}, image_root=str(tmp_path / "x"))
    lost = write_dataset({"train": dataset}, tmp_path / to, to)
    spaced = name.replace("\r\n", " ").replace("\n", " ") if to in ("voc", "labelme") else name
    back = open_dataset(tmp_path / to)
    assert (back.class_names, back[0].classes.tolist()) == ((spaced, "cat"), [0, 1])
    assert ("class names with line breaks written with spaces instead" in str(lost)) == (spaced != name)
