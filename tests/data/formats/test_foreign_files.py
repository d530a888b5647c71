"""Large files of others beside a dataset are neither read whole nor in the way of its format."""

import json

import pytest
from small_folders import FOLDERS, make_folder

from detkit.data import DATASETS, open_dataset
from detkit.data.formats import files
from detkit.registry import DataError

BESIDE = {
    "0.json": '[{"id": 1, "image_id": 2, ',
    "1.json": '{"version": "5.0", ',
    "0.xml": "<svg>",
    "0.csv": "a,b\n",
    "0.txt": "words\n",
}
"""How files begin that go on for half a GiB."""


@pytest.mark.parametrize("format", [name for name in FOLDERS if name != "LabelMeDataset"])  # whose labels any JSON is
def test_a_format_is_known_beside_large_files_of_others(format, tmp_path):
    root = make_folder(format, tmp_path)
    expected = open_dataset(root)
    for name, text in BESIDE.items():
        with open(root / name, "w") as file:
            file.write(text)
            file.truncate(1 << 29)
    found = open_dataset(root)
    assert (found.format, found.coco()) == (expected.format, expected.coco())


@pytest.mark.parametrize("format", ["CocoFolder", "LvisFolder", "CocoPanopticFolder"])
def test_a_large_file_of_annotations_is_opened(format, tmp_path, monkeypatch):
    root = make_folder(format, tmp_path)
    monkeypatch.setattr(files, "LARGEST", 100)
    assert open_dataset(root).format == DATASETS.get(format).format


@pytest.mark.parametrize("order", [("shapes", "imagePath", "imageData"), ("imageData", "imagePath", "shapes")])
def test_labelme_is_known_by_both_ends_of_its_files(order, tmp_path, monkeypatch):
    root = make_folder("LabelMeDataset", tmp_path)
    expected = open_dataset(root).coco()
    for file in root.glob("*.json"):
        content = json.loads(file.read_text()) | {"imageData": "x" * 5000}
        file.write_text(json.dumps({key: content[key] for key in (*order, "imageHeight", "imageWidth")}))
    monkeypatch.setattr(files, "PEEK", 400)
    assert open_dataset(root).coco() == expected


def test_a_broken_file_of_one_format_is_named_where_there_is_no_other(tmp_path):
    root = make_folder("YoloDataset", tmp_path)
    (root / "data.yaml").write_text("names: [cat\n")
    with pytest.raises(DataError, match=r"data\.yaml: is not YAML"):
        open_dataset(root)
    (root / "masks").mkdir()
    for name in ("a", "b"):
        (root / f"masks/{name}.png").write_bytes((root / f"images/{name}.png").read_bytes())
    assert open_dataset(root).format == "mask images"
