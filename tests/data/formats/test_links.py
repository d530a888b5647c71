"""Folders behind symbolic links are read as if they lay there, each once, and circles end."""

import pytest
from small_folders import FOLDERS, make_folder

from detkit.data import open_dataset
from detkit.data.walk import walk


def content(root):
    dataset = open_dataset(root)
    assert all(dataset[index].image.shape == (30, 40, 3) for index in range(len(dataset)))
    return dataset.format, dataset.coco()


@pytest.mark.parametrize("format", FOLDERS)
def test_a_folder_of_links_is_read_as_one_of_folders(format, tmp_path):
    root = make_folder(format, tmp_path / "data")
    expected = content(root)
    (tmp_path / "disk").mkdir()
    for number, folder in enumerate([path for path in root.iterdir() if path.is_dir()]):
        folder.rename(tmp_path / "disk" / str(number))
        folder.symlink_to(tmp_path / "disk" / str(number))
    assert content(root) == expected


@pytest.mark.parametrize("format", FOLDERS)
def test_links_to_what_lies_there_already_and_dead_ones_change_nothing(format, tmp_path):
    root = make_folder(format, tmp_path / "data")
    expected = content(root)
    for number, folder in enumerate([root, tmp_path, *(path for path in root.iterdir() if path.is_dir())]):
        (root / f"0{number}").symlink_to(folder)
    for name in () if format == "LabelMeDataset" else ("dead.json", "dead.xml", "dead.txt", "dead.csv"):  # its labels
        (root / name).symlink_to("nowhere")
    assert content(root) == expected


def test_each_folder_is_gone_into_once(tmp_path):
    for name in ("data/b/c/x", "data/b/y", "data/.hidden/z", "disk/d/v", "disk/w"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    links = {"data/a": "data/b", "data/disk": "disk", "data/e": "disk/d", "disk/d/up": "data", "data/h": "data/.hidden"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(tmp_path / target)
    assert {folder: files for folder, files in walk(tmp_path / "data") if files} == {
        "b/": ["y"],
        "b/c/": ["x"],
        "disk/": ["w"],
        "disk/d/": ["v"],
        "h/": ["z"],
    }


@pytest.mark.parametrize("path", [".", "{root}/data"])
@pytest.mark.parametrize("labels", ["data", "disk"])
def test_labels_of_yolo_lie_beside_the_link_to_images_or_beside_the_images(labels, path, tmp_path):
    root = make_folder("YoloDataset", tmp_path / "data")
    (root / "data.yaml").write_text(f"path: {path.format(root=tmp_path)}\ntrain: images\nnames: [cat]\n")
    (tmp_path / "disk").mkdir()
    for name in ("images", "labels") if labels == "disk" else ("images",):
        (root / name).rename(tmp_path / "disk" / name)
    (root / "images").symlink_to(tmp_path / "disk/images")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/other.yaml").write_text(f"path: {root}\ntrain: images\nnames: [cat]\n")
    for given in ("data/data.yaml", "conf/other.yaml", *(("data",) if labels == "data" else ())):
        dataset = open_dataset(tmp_path / given)
        assert [len(dataset[index].boxes) for index in range(len(dataset))] == [1, 0]


@pytest.mark.parametrize(("link", "target"), [("data/up", "."), ("data/all", "/"), ("disk/x/up", "disk")])
def test_a_link_that_leads_up_is_left_out_and_said(link, target, tmp_path, caplog):
    for name in ("data/a", "disk/x/b", "disk/private"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "data/x").symlink_to(tmp_path / "disk/x")
    (tmp_path / link).symlink_to(tmp_path / target)
    assert dict(walk(tmp_path / "data")) == {"": ["a"], "x/": ["b"]}
    assert "is left out, as it is a link to" in caplog.text


def test_a_link_to_what_was_gone_through_is_not_spoken_of(tmp_path, caplog):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/up").symlink_to(tmp_path)
    assert dict(walk(tmp_path)) == {"": [], "b/": []}
    assert not caplog.text
