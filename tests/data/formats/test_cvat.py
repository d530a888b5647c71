"""The XML of every task of CVAT is read, each with its own images."""

import pytest
from variant_folders import BOX, IMAGE, TRACK, VIDEO, write

from detkit.data import open_dataset
from detkit.data.formats.files import Folder
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


def test_files_are_parsed_once_and_a_part_has_the_classes_of_all(tmp_path, monkeypatch):
    for part, label in (("train", "dog"), ("val", "cat")):
        text = TASK.format(label=label, name="a.png", x=4)
        write(tmp_path, {f"{part}/annotations.xml": text, f"{part}/images/a.png": IMAGE})
    parse, parsed = Folder.xml, []
    monkeypatch.setattr(Folder, "xml", lambda folder, name: parsed.append(name) or parse(folder, name))
    dataset = open_dataset(tmp_path, format="cvat", split="val")
    assert (dataset.class_names, len(dataset)) == (("dog", "cat"), 1)
    assert parsed == ["train/annotations.xml", "val/annotations.xml"]


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


SKELETONS = {
    "of 2.3": '<skeleton frame="0" outside="0" points="1,2"/><track id="0" label="1"><points frame="0"/></track>',
    "of today": '<skeleton frame="0" keyframe="1"><points label="1" outside="0" points="1,2"/></skeleton>',
}


@pytest.mark.parametrize("version", SKELETONS)
def test_tracks_of_skeletons_are_no_objects_and_hide_none(version, tmp_path):
    track = f'<track id="1" label="cat" source="manual">{SKELETONS[version]}</track></annotations>'
    write(tmp_path, {"annotations.xml": VIDEO.replace("</annotations>", track)})
    write(tmp_path, {f"images/frame_{i:06}.PNG": IMAGE for i in range(3)})
    assert found(tmp_path)["images/frame_000000.PNG"] == [("cat", *BOX)]


def project(subsets):
    """A project's XML of the videos v0.mp4, v1.mp4 and so on; in each a cat is in frame 0."""
    size = "<original_size><width>40</width><height>30</height></original_size>"
    tasks = "".join(f"<task><id>{i}</id><name>v{i}.mp4</name>{size}</task>" for i in range(len(subsets)))
    meta = f"<meta><project><tasks>{tasks}</tasks><labels><label><name>cat</name></label></labels></project></meta>"
    box = TRACK.format(0, 0)
    tracks = (f'<track label="cat" task_id="{i}" subset="{name}">{box}</track>' for i, name in enumerate(subsets))
    return f"<annotations>{meta}{''.join(tracks)}</annotations>"


@pytest.mark.parametrize(
    ("subsets", "folders", "parts"),
    [
        (("Train", "Test"), ("images/Train", "images/Test"), ("Train", "Test")),
        (("default", "default"), ("images/default/v0", "images/default/v1"), ("default",)),
        (("default", "default"), ("v0.mp4", "v1.mp4"), ("default",)),
        (("default",), ("images/default",), ()),
        (("default",), ("images",), ()),
    ],
)
def test_each_video_of_a_project_has_its_own_frames(subsets, folders, parts, tmp_path):
    write(tmp_path, {"annotations.xml": project(subsets)})
    write(tmp_path, {f"{folder}/frame_00000{i}.PNG": IMAGE for folder in folders for i in range(2)})
    box = [("cat", *BOX)]
    expected = {f"{folder}/frame_00000{i}.PNG": [] if i else box for folder in folders for i in range(2)}
    assert (found(tmp_path), open_dataset(tmp_path).splits) == (expected, parts)


def test_frames_of_which_one_video_overwrote_anothers_are_refused(tmp_path):
    write(tmp_path, {"annotations.xml": project(("default", "default")), "images/default/frame_000000.PNG": IMAGE})
    what = r"'v0\.mp4' and 'v1\.mp4' of the project both have their frames in 'images/default'.*export each task"
    with pytest.raises(DataError, match=what):
        open_dataset(tmp_path)
    write(tmp_path, {"annotations.xml": project(("default", "default")).replace("v1.mp4", "v0.mp4")})
    with pytest.raises(DataError, match=r"'v0\.mp4' and 'v0\.mp4' of the project both"):
        open_dataset(tmp_path)
    text = '<image id="{0}" name="frame_000000" subset="default" task_id="{0}" width="40" height="30"/>'
    images = f"<annotations>{text.format(3)}{text.format(4)}</annotations>"
    write(tmp_path, {"annotations.xml": images})
    with pytest.raises(DataError, match=r"the tasks 3 and 4 both have an image 'frame_000000' in the subset 'default'"):
        open_dataset(tmp_path)


def test_frames_that_are_numbered_from_1_are_refused(tmp_path):
    text = VIDEO.replace("<original_size>", "<start_frame>0</start_frame><stop_frame>2</stop_frame><original_size>")
    write(tmp_path, {"annotations.xml": text.replace('frame="0"', 'frame="1"')})
    write(tmp_path, {f"images/frame_{i:06}.png": IMAGE for i in (1, 2, 3)})
    what = r"frames are 0 to 2, but there is no image of the first, and 'images/frame_000003\.png' behind the last"
    with pytest.raises(DataError, match=what):
        open_dataset(tmp_path)
    (tmp_path / "images/frame_000003.png").rename(tmp_path / "images/frame_000000.png")
    assert len(open_dataset(tmp_path)) == 3


@pytest.mark.parametrize(("start", "step"), [(2, 1), (10, 3)])
def test_images_with_names_of_their_own_are_the_frames_of_their_job(start, step, tmp_path):
    limits = f"<start_frame>{start}</start_frame><stop_frame>{start + 2 * step}</stop_frame>"
    text = VIDEO.replace("<original_size>", f"{limits}<frame_filter>step={step}</frame_filter><original_size>")
    text = text.replace('frame="1"', f'frame="{start + 2 * step}"').replace('frame="0"', f'frame="{start}"')
    write(tmp_path, {"annotations.xml": text, **{f"images/{name}.png": IMAGE for name in "abc"}})
    boxes = [[("cat", *BOX)], [], [("cat", *BOX)]]
    assert found(tmp_path) == {f"images/{name}.png": box for name, box in zip("abc", boxes)}


def test_frames_between_keyframes_that_have_no_shape_are_said(tmp_path):
    shapes = [TRACK.format(frame, outside) for frame, outside in ((0, 0), (3, 0), (4, 1), (6, 0), (7, 0))]
    text = f'<annotations><track id="0" label="cat">{"".join(shapes)}</track></annotations>'
    write(tmp_path, {"annotations.xml": text, **{f"images/frame_{i:06}.png": IMAGE for i in range(8)}})
    (note,) = open_dataset(tmp_path).notes
    assert note.startswith("annotations.xml: 2 shapes missing between those of a track")


@pytest.mark.parametrize("label", ["", 'label="" '])
def test_a_shape_without_a_class_is_no_object_and_said(label, tmp_path):
    box = f'<box {label}xtl="1" ytl="3" xbr="20" ybr="12"/></image>'
    text = TASK.format(label="cat", name="a.png", x=4).replace("</image>", box)
    write(tmp_path, {"annotations.xml": text, "images/a.png": IMAGE})
    assert found(tmp_path) == {"images/a.png": [("cat", 4, 3, 20, 12)]}
    assert open_dataset(tmp_path).notes[0].startswith("1 label without area or class left out")
