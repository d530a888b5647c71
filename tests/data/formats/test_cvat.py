"""The XML of every task of CVAT is read, each with its own images."""

import pytest
from variant_folders import BOX, IMAGE, VIDEO, write

from detkit.data import open_dataset
from detkit.registry import DataError

TASK = (
    "<annotations><meta><task><labels><label><name>{label}</name></label></labels></task></meta>"
    '<image id="0" name="{name}" width="40" height="30">'
    '<box label="{label}" xtl="{x}" ytl="3" xbr="20" ybr="12"/></image></annotations>'
)


def found(root, **options):
    """The image -> its boxes and the names of their classes."""
    dataset = open_dataset(root, **options)
    records = ((dataset.image_path(i).removeprefix(f"{root}/"), dataset[i]) for i in range(len(dataset)))
    return {
        path: [(name, *box) for box, name in zip(r.boxes.tensor.tolist(), (dataset.class_names[k] for k in r.classes))]
        for path, r in records
    }


@pytest.mark.parametrize("images", ["{task}/images/a.png", "{task}/a.png"])
def test_tasks_side_by_side_are_one_dataset(images, tmp_path):
    tasks = {"t1": ("dog", 4), "t2": ("cat", 5)}
    for task, (label, x) in tasks.items():
        text = TASK.format(label=label, name="a.png", x=x)
        write(tmp_path, {f"{task}/annotations.xml": text, images.format(task=task): IMAGE})
    assert open_dataset(tmp_path).class_names == ("dog", "cat")
    assert found(tmp_path) == {images.format(task=t): [(label, x, 3, 20, 12)] for t, (label, x) in tasks.items()}
    assert len(found(tmp_path / "t1/annotations.xml")) == 1


def test_tasks_in_the_folders_of_parts_are_these_parts(tmp_path):
    for part in ("train", "val"):
        text = TASK.format(label="cat", name="a.png", x=4)
        write(tmp_path, {f"{part}/annotations.xml": text, f"{part}/images/a.png": IMAGE})
    for part in ("train", "val"):
        assert [*found(tmp_path, split=part)] == [f"{part}/images/a.png"]


def test_an_image_in_two_files_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    texts = {f"{x}.xml": TASK.format(label="cat", name="a.png", x=x) for x in (1, 2)}
    write(tmp_path, {**texts, "images/a.png": IMAGE})
    assert found(tmp_path) == {"images/a.png": [("cat", 1, 3, 20, 12)]}
    assert "1 image labelled more than once; what is said first counts" in caplog.text


@pytest.mark.parametrize("size", ["<original_size><width>40</width><height>30</height></original_size>", ""])
def test_frames_are_those_beside_the_videos_xml(size, tmp_path):
    text = VIDEO.replace("<original_size><width>40</width><height>30</height></original_size>", size)
    for where in ("", "t2/"):
        write(tmp_path, {f"{where}annotations.xml": text})
        write(tmp_path, {f"{where}images/frame_{i:06}.png": IMAGE for i in range(3)})
    box = [("cat", *BOX)]
    frames = {"images/frame_000000.png": box, "images/frame_000001.png": box, "images/frame_000002.png": []}
    assert found(tmp_path) == {**frames, **{f"t2/{name}": boxes for name, boxes in frames.items()}}


def test_two_images_of_one_frame_are_refused(tmp_path):
    write(tmp_path, {"annotations.xml": VIDEO, "a/frame_000000.png": IMAGE, "b/frame_000000.png": IMAGE})
    with pytest.raises(DataError, match=r"'a/frame_000000\.png' and 'b/frame_000000\.png' are both of frame 0"):
        open_dataset(tmp_path)
