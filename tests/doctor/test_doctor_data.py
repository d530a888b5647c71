"""Each mistake planted in the data is found and named by file and entry; none is reported where there is none."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from detkit.data import DATASETS
from detkit.doctor import CheckContext, exit_code, run_checks
from detkit.experiment import own_data


def put(index, **fields):
    """A change of a training annotation's fields."""
    return lambda files: files.train["annotations"][index].update(fields)


def lose(key, index, field):
    return lambda files: files.train[key][index].pop(field)


def duplicate(key, index, **fields):
    """The entry once more, at the end, with some fields changed."""
    return lambda files: files.train[key].append({**copy.deepcopy(files.train[key][index]), **fields})


def crowd_only(files):
    """Image 3 keeps nothing but crowds; its classes are made up for elsewhere."""
    rows = files.train["annotations"]
    rows[4].update(iscrowd=1, segmentation=rows[5]["segmentation"], bbox=[30, 40, 24, 20])
    rows[5]["iscrowd"] = 1


def rename(files):
    files.test["categories"][1]["name"] = "cow"


def few(files):
    for entry in files.train["annotations"][7::2]:
        entry["category_id"] = 1


def mostly_empty(files):
    files.train["images"] += [{**files.train["images"][0], "id": i, "file_name": "1.png"} for i in range(40, 80)]


def uneven(files):
    first = files.train["annotations"][0]
    for k in range(1200):
        files.train["annotations"].append({**first, "id": 5000 + k, "bbox": [2, 2, 19 + k / 500, 21]})


RLE = {"size": [64, 64], "counts": [64 * 64]}
PLANTED = {
    "category unknown": (put(2, category_id=9), "error", "unknown category", "annotation 20"),
    "image unknown": (put(2, image_id=77), "error", "unknown image", "annotation 20"),
    "bbox not finite": (put(2, bbox=[1, 2, 3, float("nan")]), "error", "not finite", "annotation 20"),
    "bbox missing": (lose("annotations", 2, "bbox"), "error", "has no 'bbox'", "annotation 20"),
    "annotation without id": (lose("annotations", 2, "id"), "error", "has no 'id'", "annotations[2]"),
    "no mapping": (lambda f: f.train["annotations"].insert(0, "five"), "error", "malformed", "annotations[0]"),
    "no area": (put(2, bbox=[1, 2, 0, 5]), "warning", "box without area", "annotation 20"),
    "negative size": (put(2, bbox=[9, 9, -5, 5]), "warning", "box without area", "annotation 20"),
    "outside": (put(2, bbox=[90, 90, 5, 5]), "warning", "box without area", "annotation 20"),
    "over the edge": (put(3, bbox=[30, 40, 24, 44]), "warning", "over the edge", "annotation 21"),
    "box off its mask": (put(2, bbox=[40, 3, 20, 20]), "warning", "do not fit their masks", "annotation 20"),
    "box off its RLE": (put(3, bbox=[2, 2, 24, 20]), "warning", "do not fit their masks", "annotation 21"),
    "rle size": (put(3, segmentation={**RLE, "size": [64, 60]}), "error", "malformed RLE", "annotation 21"),
    "rle runs": (put(3, segmentation={**RLE, "counts": [7]}), "error", "malformed RLE", "annotation 21"),
    "rle nonsense": (put(3, segmentation={**RLE, "counts": "\u00e9"}), "error", "malformed RLE", "annotation 21"),
    "two points": (put(2, segmentation=[[1, 1, 5, 5]]), "error", "too few points", "annotation 20"),
    "odd polygon": (put(2, segmentation=[[1, 1, 5, 5, 9, 9, 3]]), "error", "malformed polygon", "annotation 20"),
    "no mask": (put(2, segmentation=[]), "error", "no mask", "annotation 20"),
    "annotation id twice": (put(2, id=31), "error", "annotation id twice", "annotation 31"),
    "identical": (duplicate("annotations", 2, id=990), "warning", "repeat another", "20 = annotation 990"),
    "image id twice": (duplicate("images", 2, file_name="21.png"), "error", "image id twice", "image 3"),
    "image ids mixed": (duplicate("images", 2, id="x"), "error", "two kinds", "image 'x'"),
    "image malformed": (lambda f: f.train["images"][4].update(height=0), "error", "malformed", "image 5"),
    "file name twice": (duplicate("images", 2, id=99), "warning", "several records", "3.png"),
    "category name twice": (duplicate("categories", 0, id=3), "error", "category name twice", "category 3"),
    "category id twice": (duplicate("categories", 0, name="cow"), "error", "category id twice", "category 1"),
    "class unused": (duplicate("categories", 0, id=3, name="cow"), "warning", "without an object in the tr", "cow"),
    "classes differ": (rename, "error", "not those of data.train_dataset", "cow"),
    "few objects": (few, "warning", "fewer than 10", "dog: 3"),
    "uneven": (uneven, "note", "very uneven", "cat: 1212"),
    "only crowds": (crowd_only, "warning", "nothing but crowds", "3.png"),
    "mostly empty": (mostly_empty, "warning", "no annotation", "1.png"),
    "image in both": (lambda f: f.test["images"][0].update(file_name="5.png"), "warning", "and in the test", "5.png"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_mistake_is_found_and_named(files, case):
    plant, severity, words, example = PLANTED[case]
    plant(files)
    found = [f for f in files.findings(quick=True) if words in f.what]
    assert [f.severity for f in found] == [severity]
    assert any(example in text for text in found[0].examples)
    assert found[0].fix
    if found[0].check == "Annotations":
        assert found[0].where == f"{files.folder}/train.json"


def test_nothing_is_found_where_nothing_is_wrong(files):
    findings = files.findings(model=True)
    assert findings == []
    assert exit_code(findings) == 0


def test_all_issues_of_a_file_are_listed_and_the_rest_is_looked_at(files):
    put(2, category_id=9, bbox=[0, 0, 0, float("inf")], segmentation=[[1, 2, 3]])(files)
    put(4, category_id=8)(files)
    put(7, bbox=[2, 2, 24, 20])(files)
    found = {f.what.split(":")[0]: f for f in files.findings(quick=True)}
    assert [e.split(" (")[0] for e in found["unknown category"].examples] == ["annotation 20", "annotation 30"]
    assert found["box that is not finite"].count == 1
    assert found["malformed polygon"].count == 1
    assert "annotation 41" in found["boxes that do not fit their masks"].examples[0]


def test_policies_of_the_dataset_hold(files):
    put(2, segmentation=[])(files)
    put(4, bbox=[1, 1, 0, 0])(files)
    options = ["data.train_dataset.invalid_masks=box", "data.train_dataset.invalid_boxes=error"]
    found = {f.what.split(":")[0]: f.severity for f in files.findings(*options, quick=True)}
    assert found == {"no mask": "warning", "box without area": "error"}


def test_a_file_that_cannot_be_read_is_an_error_and_the_rest_goes_on(files):
    files.train = {"images": []}
    found = files.findings(quick=True)
    assert [(f.severity, f.where) for f in found] == [("error", "data.train_dataset")]
    assert "no list under 'annotations', 'categories'" in found[0].what


def save_turned(path, tag):
    image = Image.open(path)
    image.load()
    exif = image.getexif()
    exif[0x0112] = tag
    image.save(path, exif=exif)


def test_image_files(files):
    folder = files.folder
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[: (folder / "1.png").stat().st_size // 2])
    (folder / "2.png").write_text("no image")
    (folder / "3.png").unlink()
    Image.fromarray(np.zeros((60, 64, 3), np.uint8)).save(folder / "4.png")
    shutil.copy(folder / "5.png", folder / "21.png")
    shutil.copy(folder / "6.png", folder / "7.png")
    save_turned(folder / "8.png", 3)
    files.train["images"][8]["height"] = 80
    files.train["annotations"][17]["segmentation"] = [[30, 40, 54, 40, 54, 60, 30, 60]]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)).save(folder / "9.png")
    save_turned(folder / "9.png", 6)
    found = {f.what: (f.severity, [e.replace(str(folder), "") for e in f.examples]) for f in files.findings()}
    assert found == {
        "images that are not there": ("error", ["/3.png"]),
        "unreadable image": ("error", ["/1.png", "/2.png"]),
        "image of another size": ("error", ["/4.png"]),
        "images whose copy is in the other set": ("warning", ["/21.png = /5.png"]),
        "images that are there twice within a set": ("warning", ["/6.png = /7.png"]),
        "turned by its EXIF tag, and its size does not say whether the annotations are": ("warning", ["/8.png"]),
        "turned by its EXIF tag": ("note", ["/9.png"]),
    }


def test_odd_image_files(files):
    folder = files.folder
    frames = [Image.fromarray(np.random.default_rng(k).integers(0, 256, (64, 64, 3), np.uint8)) for k in range(2)]
    frames[0].save(folder / "1.png", save_all=True, append_images=frames[1:])
    black = np.zeros((64, 64, 3), np.uint8)
    black[0, :2] = 255
    Image.fromarray(black).save(folder / "2.png")
    Image.new("RGB", (64, 64), (9, 9, 9)).save(folder / "3.png")
    deep = np.random.default_rng(0).integers(0, 1024, (64, 64), np.uint16)
    Image.fromarray(deep).save(folder / "4.png")
    frames[0].save(folder / "5.jpg")
    data = bytearray((folder / "5.jpg").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 30] = bytes(30)
    (folder / "5.png").write_bytes(data)
    save_turned(folder / "8.png", 4)
    found = {f.what: (f.severity, [e.replace(str(folder), "") for e in f.examples]) for f in files.findings()}
    assert found == {
        "several frames": ("warning", ["/1.png"]),
        "nearly black image": ("warning", ["/2.png", "/4.png"]),
        "image of one value": ("warning", ["/3.png"]),
        "unused bits": ("warning", ["/4.png"]),
        "decoder's warning": ("warning", ["/5.png"]),
        "turned by its EXIF tag, and its size does not say whether the annotations are": ("warning", ["/8.png"]),
    }
    given = files.findings("data.train_dataset.reading={max_value: 1023, orientation: stored}")
    assert not {"unused bits", "turned by its EXIF tag"} & {f.what[:22] for f in given}
    assert [f.examples[0][-6:] for f in given if f.what == "nearly black image"] == ["/2.png"]


def test_the_same_name_with_other_content_is_worth_a_note(files):
    (files.folder / "other").mkdir()
    (files.folder / "21.png").rename(files.folder / "other/5.png")
    files.test["images"][0]["file_name"] = "other/5.png"
    found = [(f.severity, f.what) for f in files.findings()]
    assert found == [("note", "files of the same name, with other content, in both sets")]


def test_datasets_without_files_and_joined_ones_are_looked_at(files):
    put(2, bbox=[40, 3, 20, 20])(files)
    part = f"{{name: CocoInstances, json_file: {files.folder}/train.json, image_root: {files.folder}}}"
    shapes = "{name: Shapes, num_images: 30, image_size: [64, 64], min_scale: 0.3, max_objects: 4}"
    joined = f"data.train_dataset={{name: ConcatDataset, datasets: [{shapes}, {part}]}}"
    by_check = {f.check: f for f in files.findings(joined, f"data.test_dataset={shapes}", quick=True)}
    assert set(by_check) == {"BoxesFitMasks", "SameClasses"}
    assert "annotation 20 " in by_check["BoxesFitMasks"].examples[0]
    assert by_check["BoxesFitMasks"].where == f"{files.folder}/train.json"
    assert sorted(by_check["SameClasses"].examples) == ["cat", "dog"]


OWN_FORMAT = """
import json
from detkit.data import DATASETS, TableDataset

@DATASETS.register()
class OwnFormat(TableDataset):
    def __init__(self, *, file: str, root: str):
        with open(file) as content:
            lists = json.load(content)
        names = {c["id"]: c["name"] for c in lists["categories"]}
        super().__init__(lists["images"], lists["annotations"], names, source=file, image_root=root)
"""


def test_the_data_of_a_format_of_ones_own_are_checked_like_any_other(files):
    (files.folder / "own_format.py").write_text(OWN_FORMAT)
    put(2, category_id=9)(files)
    put(4, bbox=[40, 3, 20, 20])(files)
    put(7, bbox=[1, 2, 0, 5])(files)
    files.experiment()  # writes the files
    node = f"{{name: OwnFormat, file: {files.folder}/train.json, root: {files.folder}}}"
    options = [f"imports=[{files.folder}/own_format.py]", f"data.train_dataset={node}"]
    try:
        found = {f.what.split(":")[0]: f for f in files.findings(*options, quick=True)}
    finally:
        DATASETS.forget("own_format")
    assert {what: f.severity for what, f in found.items()} == {
        "unknown category": "error",
        "box without area": "warning",
        "boxes that do not fit their masks": "warning",
    }
    assert {f.where for f in found.values()} == {f"{files.folder}/train.json"}
    assert "annotation 30" in found["boxes that do not fit their masks"].examples[0]


def test_one_mistake_of_many_labels_of_a_folder_is_one_row(tmp_path):
    """Also of both parts of the folder, and each label is an example of it."""
    for i in range(12):
        Image.fromarray(np.full((64, 64, 3), 20 * i, np.uint8)).save(tmp_path / f"{i}.png")
        shapes = [
            {"label": "cat", "shape_type": "polygon", "points": [[2, 2], [30, 2], [2, 30 + i]]},
            {"label": "cat", "shape_type": "rectangle", "points": [[40, 40], [60, 50 + i]]},
        ]
        content = {"shapes": shapes, "imagePath": f"{i}.png", "imageHeight": 64, "imageWidth": 64}
        (tmp_path / f"{i}.json").write_text(json.dumps(content))
    found = run_checks(CheckContext(own_data(tmp_path).experiment()).load_data())
    (masks,) = [finding for finding in found if finding.what.startswith("no mask")]
    assert (masks.where, masks.count) == (str(tmp_path), 12)
    assert f"{tmp_path / '7.json'}, shape 2" in masks.examples
    (tally,) = [finding for finding in found if "without a mask" in finding.what]
    assert tally.count == 12


def test_findings_are_json(files):
    put(2, category_id=9)(files)
    (finding,) = files.findings(quick=True)
    data = json.loads(json.dumps(dataclasses.asdict(finding)))
    assert data["count"] == 1
    assert set(data) == {field.name for field in dataclasses.fields(finding)}
