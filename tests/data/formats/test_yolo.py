"""A data.yaml is read to the names and the parts that it means, and to no others."""

import pytest
from variant_folders import BOX, IMAGE, NAMES, YOLO, write

from detkit.data import open_dataset
from detkit.registry import DataError


def opened(root, text, *images, **options):
    files = {f"{folder}/{name}.png": IMAGE for folder, name in images}
    labels = {f"{'labels'.join(folder.rsplit('images', 1))}/{name}.txt": YOLO for folder, name in images}
    write(root, {**files, **labels, "data.yaml": text})
    return open_dataset(root, **options)


@pytest.mark.parametrize(
    "head",
    [
        "train: images\nval: valid/images\n",
        "path: ../some/where\ntrain: images\nval: valid/images\n",
        "train: /some/where/images\nval: /some/where/valid/images\n",
        "path: /some/where\ntrain: images\nval: [valid/images]\n",
        "train: images/train\nval: valid/images\n",
        "train: ../images\nval: ../valid/images\n",
    ],
)
def test_a_part_that_is_not_there_is_not_that_of_another(head, tmp_path, caplog):
    dataset = opened(tmp_path, head + NAMES, ("images/train", "a"), ("images/train", "b"))
    assert (dataset.splits, len(dataset)) == (("train",), 2)
    assert "val: there is no '" in caplog.text


@pytest.mark.parametrize("start", ["", "../", "data/", "/some/where/", "C:\\some\\where\\"])
def test_leading_folders_that_are_not_there_are_forgiven(start, tmp_path):
    head = f"train: {start}images\nval: {start}images/val\ntest: {start}valid/images\n{NAMES}"
    dataset = opened(tmp_path, head, ("images", "a"), ("images/val", "b"), ("valid/images", "c"))
    assert [len(open_dataset(tmp_path, split=part)) for part in dataset.splits] == [2, 1, 1]


def test_parts_of_any_name_are_parts(tmp_path):
    parts = {"training": 1, "validation": 2, "minival": 3}
    images = [(f"images/{part}", f"{part}{i}") for part, count in parts.items() for i in range(count)]
    head = "".join(f"{part}: images/{part}\n" for part in parts) + f"root: .\nlabels: labels\nnc: 2\n{NAMES}"
    assert {*opened(tmp_path, head, *images).splits} == {*parts}
    assert {part: len(open_dataset(tmp_path, split=part)) for part in parts} == parts


def test_a_key_that_names_all_images_is_no_part(tmp_path):
    dataset = opened(tmp_path, f"path: .\nroot: images\n{NAMES}", ("images/train", "a"), ("images/val", "b"))
    assert {*dataset.splits} == {"train", "val"}


@pytest.mark.parametrize("names", ["[yes, no, on, off, 012, 1:30]", "{0: yes, 1: no, 2: on, 3: off, 4: 010, 5: 10}"])
def test_names_are_words_where_yaml_1_2_has_words(names, tmp_path):
    if "010" in names:
        with pytest.raises(DataError, match=r"data\.yaml: names: classes 4 and 5 are both named '10'; give each"):
            opened(tmp_path, f"names: {names}\n", ("images", "a"))
    else:
        assert opened(tmp_path, f"names: {names}\n", ("images", "a")).class_names[:4] == ("yes", "no", "on", "off")


def test_names_of_a_mapping_are_numbered_by_its_keys(tmp_path):
    assert opened(tmp_path, "names: {1: dog, 0: cat}\n", ("images", "a")).class_names == ("cat", "dog")
    (tmp_path / "data.yaml").write_text("names: {0: cat, 2: dog}\n")
    with pytest.raises(DataError, match=r"data\.yaml: names: expected a list of class names, or 0: name lines"):
        open_dataset(tmp_path)


def test_a_key_without_a_value_is_none(tmp_path):
    assert opened(tmp_path, f"train: images\ntest:\n{NAMES}", ("images", "a")).splits == ("train",)


@pytest.mark.parametrize("lists", ["{root}/images/{part}/cam/1.png", "/some/where/images/{part}/cam/1.png"])
def test_lists_may_name_images_by_paths_from_the_root(lists, tmp_path):
    parts = ("train", "val")
    text = {f"{part}.txt": lists.format(root=tmp_path, part=part) for part in parts}
    write(tmp_path, text)
    head = f"train: train.txt\nval: val.txt\n{NAMES}"
    opened(tmp_path, head, *((f"images/{part}/cam", "1") for part in parts))
    for part in parts:
        assert open_dataset(tmp_path, split=part).image_path(0) == str(tmp_path / f"images/{part}/cam/1.png")


@pytest.mark.parametrize("path", ["../elsewhere", "{root}/elsewhere"])
def test_a_folder_of_one_yaml_is_as_that_yaml(path, tmp_path):
    opened(tmp_path / "elsewhere", NAMES, ("images", "a"))
    write(tmp_path / "conf", {"data.yaml": f"path: {path.format(root=tmp_path)}\ntrain: images\n{NAMES}"})
    for given in ("conf", "conf/data.yaml"):
        dataset = open_dataset(tmp_path / given)
        assert (dataset.format, dataset.splits, len(dataset)) == ("YOLO", ("train",), 1)


@pytest.mark.parametrize("place", ["coco8.yaml", "ultralytics/coco8.yaml"])
def test_a_relative_path_may_be_below_a_folder_of_datasets(place, tmp_path):
    opened(tmp_path / "datasets/coco8", NAMES, ("images/train", "a"), ("images/val", "b"))
    (tmp_path / "datasets/coco8/data.yaml").unlink()
    write(tmp_path, {place: f"path: coco8\ntrain: images/train\nval: images/val\n{NAMES}", "train/c.png": IMAGE})
    for part, name in (("train", "a"), ("val", "b")):
        dataset = open_dataset(tmp_path / place, split=part)
        assert [dataset.image_path(i).rpartition("/")[2] for i in range(len(dataset))] == [f"{name}.png"]


def test_classes_that_are_only_counted_are_called_as_ultralytics_does(tmp_path):
    assert opened(tmp_path, "train: images\nnc: 2\n", ("images", "a")).class_names == ("class_0", "class_1")
    write(tmp_path, {"a.yaml": "nc: 80\nbackbone: [1, 2]\n"})
    assert open_dataset(tmp_path).class_names == ("class_0", "class_1"), "a.yaml is of a model"
    for nc in ("two", "0", str(10**12)):
        (tmp_path / "data.yaml").write_text(f"train: images\nnc: {nc}\n")
        with pytest.raises(DataError, match=r"data\.yaml: names: expected a list of class names"):
            open_dataset(tmp_path)


def test_roboflows_darknet_has_its_names_beside_the_images(tmp_path):
    files = {
        f"{part}/{name}": text for part in ("train", "valid") for name, text in (("a.png", IMAGE), ("a.txt", YOLO))
    }
    write(tmp_path, {**files, "train/_darknet.labels": "cat\ndog\n", "valid/_darknet.labels": "cat\ndog\n"})
    dataset = open_dataset(tmp_path)
    assert (dataset.class_names, dataset.splits, len(dataset)) == (("cat", "dog"), ("train", "valid"), 2)


def rewritten(root, text):
    opened(root, f"train: images\n{NAMES}", ("images", "a"))
    (root / "labels/a.txt").write_text(text)
    return open_dataset(root)


@pytest.mark.parametrize("end", ["0.87", "1", "275"])
def test_a_number_behind_a_box_is_a_confidence_or_a_track(end, tmp_path):
    boxes = rewritten(tmp_path, f"{YOLO.strip()} {end}\n")[0].boxes.tensor.tolist()
    assert boxes == [pytest.approx(BOX)]


@pytest.mark.parametrize("corner", ["1.2", "-.2", "4"])
def test_a_corner_of_an_outline_outside_the_image_is_a_mistake(corner, tmp_path):
    with pytest.raises(DataError, match=rf"a\.txt, line 1: the coordinate {corner} is not within 0\.\.1"):
        rewritten(tmp_path, f"0 .1 .1 .5 .1 .5 .4 .1 {corner}\n")


def test_a_part_may_be_a_list_of_images(tmp_path):
    images = [("images", "a"), ("images", "b"), ("images", "c")]
    dataset = opened(tmp_path, "path: .\ntrain:\n- images/c.png\n- images/a.png\nval: images/b.png\n" + NAMES, *images)
    assert dataset.splits == ("train", "val")
    assert [open_dataset(tmp_path, split="train").image_path(i) for i in range(2)] == [
        str(tmp_path / f"images/{name}.png") for name in "ca"
    ]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("obj_train_data/a.txt", "an image 'a' belongs beside it. Readable"),
        ("labels/train/a.txt", "an image 'a' belongs beside it, or in 'images' where this says 'labels'. Readable"),
    ],
)
def test_labels_that_were_exported_without_images_are_known(label, words, tmp_path):
    write(tmp_path, {label: YOLO, "classes.txt": "cat\n", "other/b.png": IMAGE})
    with pytest.raises(DataError, match=f"{label} looks like YOLO's labels: {words}"):
        open_dataset(tmp_path)
