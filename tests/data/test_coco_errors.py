"""What is wrong with a dataset ends before anything is built, and the message names it."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from detkit.data import CocoInstances
from detkit.data.images import ImageReading
from detkit.registry import DataError

H, W = 40, 60


@pytest.fixture
def content():
    return {
        "images": [{"id": 1, "file_name": "1.png", "height": H, "width": W}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {
                "id": 5,
                "image_id": 1,
                "category_id": 2,
                "bbox": [10, 10, 20, 20],
                "segmentation": [[10, 10, 30, 10, 10, 30]],
            }
        ],
    }


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(tmp_path / "1.png")
    return tmp_path


@pytest.fixture
def read(folder):
    def write(content, **options):
        path = folder / "instances.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return CocoInstances(json_file=str(path), image_root=str(folder), **options)

    return write


def put(where, value):
    """A change of one place in the file, e.g. ``annotations/0/bbox``."""

    def change(content):
        *path, last = [int(step) if step.isdigit() else step for step in where.split("/")]
        for step in path:
            content = content[step]
        if value is KeyError:
            del content[last]
        elif isinstance(content, list) and last == len(content):
            content.append(value)
        else:
            content[last] = value

    return change


OTHER = {"id": 5, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "segmentation": [[1, 1, 6, 1, 6, 6]]}

CASES = {
    "unknown category": (put("annotations/0/category_id", 9), "annotation 5: category_id 9 is not listed.*(1, 2)"),
    "unknown image": (put("annotations/0/image_id", 77), "annotation 5: image_id 77"),
    "unhashable category": (
        put("annotations/0/category_id", [1]),
        r"annotation 5: category_id is '\[1\]'; expected int",
    ),
    "annotation twice": (put("annotations/1", OTHER), "two annotations have the id 5"),
    "image twice": (
        put("images/1", {"id": 1, "file_name": "1.png", "height": H, "width": W}),
        "two images have the id 1",
    ),
    "category twice": (put("categories/1/id", 1), "two categories have the id 1"),
    "name twice": (put("categories/1/name", "cat"), "two categories are named 'cat'"),
    "no categories": (put("categories", []), "at least one class"),
    "no images": (put("images", []), "annotation 5: image_id 1"),
    "no file_name": (put("images/0/file_name", KeyError), "image 1 has no 'file_name'"),
    "no height": (put("images/0/height", KeyError), "image 1 has no 'height'"),
    "odd height": (put("images/0/height", 40.5), "image 1 has .*whole numbers"),
    "no annotation id": (put("annotations/0/id", KeyError), r"annotations\[0\] has no 'id'"),
    "no bbox": (put("annotations/0/bbox", KeyError), "annotation 5 has no 'bbox'"),
    "bbox of three": (put("annotations/0/bbox", [1, 2, 3]), "annotation 5: bbox is not four finite numbers"),
    "bbox not finite": (put("annotations/0/bbox", [1, 2, 3, float("inf")]), "annotation 5: bbox is not four finite"),
    "bbox of NaN": (put("annotations/0/bbox", [1, float("nan"), 3, 4]), "annotation 5: bbox is not four finite"),
    "bbox beyond float64": (put("annotations/0/bbox", [1, 10**400, 3, 4]), "annotation 5: bbox is not four finite"),
    "polygon of NaN": (
        put("annotations/0/segmentation", [[1, 1, 2, float("nan"), 3, 3]]),
        r"annotation 5: segmentation holds \[1, 1, 2, nan, 3, 3\]",
    ),
    "polygon beyond float64": (
        put("annotations/0/segmentation", [[1, 1, 2, 10**400, 3, 3]]),
        "annotation 5: segmentation holds",
    ),
    "polygon of infinity": (
        put("annotations/0/segmentation", [[1, 1, 2, float("-inf"), 3, 3]]),
        "annotation 5: segmentation holds",
    ),
    "entry of another kind": (put("annotations/0", "five"), r"annotations\[0\] is 'five'"),
    "text for a crowd flag": (
        put("annotations/0/iscrowd", "0"),
        "annotation 5: iscrowd is '0'; expected 0, 1, false or true; write it as a number",
    ),
    "huge id": (put("annotations/0/id", 2**70), "64 bits"),
    "two points": (
        put("annotations/0/segmentation", [[1, 1, 2, 2]]),
        "annotation 5 has a polygon of fewer than 3 points",
    ),
    "odd polygon": (put("annotations/0/segmentation", [[1, 1, 2, 2, 3, 3, 4]]), "annotation 5: segmentation holds"),
    "words for polygon": (put("annotations/0/segmentation", ["abc"]), "annotation 5: segmentation holds"),
    "nested polygon": (put("annotations/0/segmentation", [[[1, 2], [3]]]), "annotation 5: segmentation holds"),
    "far polygon": (put("annotations/0/segmentation", [[0, 0, 1e12, 0, 5, 5]]), "annotation 5: segmentation holds"),
    "rle of another size": (
        put("annotations/0/segmentation", {"size": [W, H], "counts": [W * H]}),
        "annotation 5: its RLE is of size",
    ),
    "rle too short": (put("annotations/0/segmentation", {"size": [H, W], "counts": [7]}), "annotation 5: the runs"),
    "rle of nonsense": (
        put("annotations/0/segmentation", {"size": [H, W], "counts": "\u00e9"}),
        "annotation 5: its counts",
    ),
    "rle without size": (put("annotations/0/segmentation", {"counts": [7]}), "annotation 5: an RLE is"),
    "image of another size": (put("images/0/width", W + 1), r"1\.png: is 60 x 40 .*61 x 40"),
    "image missing": (put("images/0/file_name", "2.png"), r"2\.png: there is no such image file"),
}


@pytest.mark.parametrize("case", CASES)
def test_mistake_in_the_file_is_named(read, content, case):
    change, words = CASES[case]
    read(content)  # sound before the change
    change(content)
    with pytest.raises(DataError, match=words) as error:
        read(content)
    assert "instances.json" in str(error.value) or ".png" in str(error.value)


@pytest.mark.parametrize("area", [float("nan"), 10**400, -3, "large", None])
def test_an_area_that_is_no_number_is_that_of_the_mask(read, content, area):
    content["annotations"][0]["area"] = area
    assert read(content).coco()["annotations"][0]["area"] == 200


def test_a_number_that_is_infinite_in_the_text_alone_is_named(read, content):
    text = json.dumps(content).replace('"bbox": [10,', '"bbox": [1e999,')
    with pytest.raises(DataError, match="annotation 5: bbox is not four finite"):
        read(text)


def test_annotation_without_mask_among_others_names_the_fix(read, content):
    content["annotations"].append({**OTHER, "id": 6, "segmentation": []})
    with pytest.raises(DataError, match=r"annotation 6 has no segmentation.*invalid_masks: drop.*box"):
        read(content)
    assert len(read(content, invalid_masks="box")[0].objects.masks) == 2


def test_box_without_area_by_option(read, content):
    content["annotations"].append({**OTHER, "id": 6, "bbox": [3, 3, 0, 5]})
    assert read(content)[0].objects.annotation_ids.tolist() == [5]
    with pytest.raises(DataError, match=r"annotation 6: its bbox \[3.0, 3.0, 0.0, 5.0\].*1\.png.*invalid_boxes: drop"):
        read(content, invalid_boxes="error")


def test_nothing_left_is_an_error_that_says_why(read, content):
    content["annotations"][0]["bbox"] = [1, 1, 0, 0]
    with pytest.raises(DataError, match=r"none is left: 1 boxes without area.*1 images without an object left out"):
        read(content, keep_empty=False)


def test_unknown_class_name_is_suggested(read, content):
    with pytest.raises(DataError, match=r"no category 'dogg'\. Did you mean 'dog'"):
        read(content, class_names=("cat", "dogg"))
    with pytest.raises(DataError, match="different names"):
        read(content, class_names=("cat", "cat"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{not json", "is not JSON"),
        ("[1, 2]", "not a COCO instances file"),
        ("{}", "no keys, but no list under 'images', 'annotations', 'categories'"),
        ('{"images": [], "categories": [], "info": 1}', "no list under 'annotations'"),
        ("[" * 100000, "is not JSON"),
    ],
)
def test_file_that_is_not_coco(read, text, words):
    with pytest.raises(DataError, match=words):
        read(text)


def test_missing_file_names_the_absolute_path_and_a_neighbour(folder, read, content, monkeypatch):
    read(content)
    with pytest.raises(DataError, match=re.escape(f"'{folder}/instance.json' does not exist. Did you mean")) as error:
        CocoInstances(json_file=f"{folder}/instance.json", image_root=str(folder))
    assert f"'{folder}/instances.json'" in str(error.value)
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=re.escape(f"{folder}/nowhere/deep' does not exist")):
        CocoInstances(json_file="instances.json", image_root="nowhere/deep")
    (folder / ".cache").mkdir()
    with pytest.raises(DataError, match=r"holds no 'nowhere', but 1\.png, instances\.json\."):
        CocoInstances(json_file="instances.json", image_root="nowhere")
    with pytest.raises(DataError, match=r"the folder '.*1\.png' is not a folder"):
        CocoInstances(json_file="instances.json", image_root="1.png")


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("Sub\\Instances.JSON", "sub/instances.json"),
        ("./sub/instances%2Ejson", "sub/instances.json"),
        ("sub/\u00e9.json", "sub/e\u0301.json"),
    ],
)
def test_a_path_that_is_written_otherwise_is_named(folder, monkeypatch, path, file):
    (folder / "sub").mkdir()
    (folder / file).write_text("{}")
    monkeypatch.chdir(folder)
    for option in ("json_file", "image_root"):
        with pytest.raises(DataError, match=re.escape(f"{option}: ")) as error:
            CocoInstances(**{"json_file": file, "image_root": ".", option: path})
        assert f"There is '{folder / file}': the letters' case" in str(error.value)


def test_missing_file_under_the_default_names_the_variable(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DETKIT_DATASETS", raising=False)
    with pytest.raises(DataError, match="set DETKIT_DATASETS to your folder"):
        CocoInstances(json_file="datasets/coco/a.json", image_root=".")
    monkeypatch.setenv("DETKIT_DATASETS", str(folder))
    with pytest.raises(DataError, match="DETKIT_DATASETS is '"):
        CocoInstances(json_file=f"{folder}/coco/a.json", image_root=".")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_image_is_found_before_training(read, content, folder, suffix):
    path = folder / f"broken{suffix}"
    content["images"][0]["file_name"] = path.name
    noise = np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8)
    Image.fromarray(noise).save(path)
    read(content)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=rf"broken\{suffix}: cannot be decoded"):
        read(content)
    unchecked = read(content, check_images=0)
    with pytest.raises(DataError, match=rf"broken\{suffix}: cannot be decoded"):
        unchecked[0]


def test_image_that_is_none(read, content, folder):
    (folder / "1.png").write_text("not an image")
    with pytest.raises(DataError, match=r"1\.png: cannot be decoded"):
        read(content)


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "{parent}/secret.png"])
def test_a_file_name_that_leads_out_of_the_folder_is_refused_unless_allowed(read, content, folder, name):
    (folder / "images/a").mkdir(parents=True)
    shutil.copy(folder / "1.png", folder / "secret.png")
    content["images"][0]["file_name"] = name.format(parent=folder)
    options = {"json_file": str(folder / "instances.json"), "image_root": str(folder / "images")}
    (folder / "instances.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"secret\.png' leads out of .* set the dataset's reading\.outside_root"):
        CocoInstances(**options)
    allowed = CocoInstances(**options, reading=ImageReading(outside_root=True))
    assert allowed[0].image.shape == (H, W, 3)


def test_a_file_name_that_stays_in_the_folder_may_take_detours(read, content, folder):
    for name in ("x/../1.png", f"{folder}/1.png", "..1.png"):
        (folder / "..1.png").write_bytes((folder / "1.png").read_bytes())
        (folder / "x").mkdir(exist_ok=True)
        content["images"][0]["file_name"] = name
        assert read(content)[0].image.shape == (H, W, 3)


def test_how_images_are_read_is_an_option_and_what_is_odd_is_counted(read, content, folder, caplog):
    Image.fromarray(np.full((H, W), 2000, np.uint16)).save(folder / "1.png")
    assert (read(content, reading=ImageReading(max_value=4095))[0].image == 125).all()
    assert (read(content)[0].image == 7).all()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(folder / "1.jpg", exif=exif)
    content["images"][0]["file_name"] = "1.jpg"
    read(content)
    assert "of 1 checked images 1 are odd: turned by its EXIF tag" in caplog.text
    caplog.clear()
    read(content, reading=ImageReading(orientation="stored"))
    assert caplog.text == ""
