"""Lists and instance masks of Pascal VOC name what is there, whatever the names and however many the objects."""

import numpy as np
import pytest
from variant_folders import IMAGE, VOC, VOC_BOX, write

from detkit.data import TableDataset, open_dataset
from detkit.data.formats.writing import write_dataset
from detkit.registry import DataError


def folder(root, lists, *stems):
    files = {f"ImageSets/{name}.txt": "".join(f"{line}\n" for line in lines) for name, lines in lists.items()}
    for stem in stems:
        files |= {f"JPEGImages/{stem}.png": IMAGE, f"Annotations/{stem}.xml": VOC.format(f"{stem}.png", VOC_BOX)}
    write(root, files)
    return root


@pytest.mark.parametrize("end", ["", " -1"])
def test_names_that_end_in_a_number_are_names(end, tmp_path):
    stems = [f"frame {i}{end}" for i in range(4)]
    root = folder(tmp_path, {"Main/train": stems[:3], "Main/val": stems[3:]}, *stems)
    assert [len(open_dataset(root, split=part)) for part in ("train", "val")] == [3, 1]


@pytest.mark.parametrize("stems", [("a", "b"), ("frame 0", "frame 1")])
@pytest.mark.parametrize(
    "columns", ["Main/cat_train, -1", "Main/cat_train,  0", "Layout/train,  2", "Action/train, 3 -1"]
)
def test_a_list_that_says_more_than_names_is_no_part(stems, columns, tmp_path):
    name, end = columns.split(",")
    dataset = open_dataset(folder(tmp_path, {"Main/train": stems, name: [stem + end for stem in stems]}, *stems))
    assert (dataset.splits, len(dataset)) == (("train",), 2)


def test_every_object_of_a_crowded_image_keeps_its_mask(tmp_path):
    write(tmp_path, {"a.png": IMAGE})
    corners = [(2 * (i % 20), 2 * (i // 20)) for i in range(300)]
    masks = [[[x, y, x + 1, y, x + 1, y + 2, x, y + 2]] for x, y in corners]  # half of the box
    rows = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [*corner, 2, 2], "segmentation": mask}
        for i, (corner, mask) in enumerate(zip(corners, masks))
    ]
    images = [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}]
    dataset = TableDataset(images, rows, {1: "cat"}, image_root=str(tmp_path))
    write_dataset({"train": dataset}, tmp_path / "voc", "voc")
    assert {row["area"] for row in open_dataset(tmp_path / "voc").coco()["annotations"]} == {2}


def test_a_class_named_background_survives(tmp_path):
    write(tmp_path, {"a.png": IMAGE})
    rows = [{"id": k, "image_id": 1, "category_id": k, "bbox": [1, 1, 5, 5]} for k in (1, 2)]
    images = [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}]
    dataset = TableDataset(images, rows, {1: "background", 2: "cat"}, image_root=str(tmp_path))
    write_dataset({"train": dataset}, tmp_path / "voc", "voc")
    back = open_dataset(tmp_path / "voc")
    assert back.class_names == ("background", "cat")
    assert back[0].classes.tolist() == [0, 1]


def test_an_instance_mask_of_another_size_than_its_class_mask_is_refused(tmp_path):
    ids = np.ones((30, 40), np.uint8)
    files = {"JPEGImages/a.png": IMAGE, "SegmentationObject/a.png": ids, "SegmentationClass/a.png": ids[:9]}
    write(tmp_path, files)
    with pytest.raises(DataError, match=r"SegmentationObject/a\.png: is of another size than SegmentationClass/a\.png"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("colours", [("0,0,0", "9,0,0", "9,0,0"), ("0,0,0", "", ""), ("", "", "")])
def test_a_label_map_names_the_classes_whatever_their_colours(colours, tmp_path):
    lines = [f"{name}:{colour}::\n" for name, colour in zip(("background", "dog", "cat"), colours)]
    root = folder(tmp_path, {"Main/default": ["a"]}, "a")
    write(root, {"labelmap.txt": "".join(["# label:color_rgb:parts:actions\n", *lines])})
    dataset = open_dataset(root)
    assert (dataset.class_names, dataset[0].classes.tolist()) == (("dog", "cat"), [1])


def test_lists_may_name_images_with_their_suffix(tmp_path):
    root = folder(tmp_path, {"Main/train": ["a.png", "b.jpg"], "Main/val": ["c"]}, "a", "b.jpg", "c")
    assert [len(open_dataset(root, split=part)) for part in ("train", "val")] == [2, 1]


def test_outlines_beside_the_boxes_are_masks(tmp_path):
    outline = "<polygon><x1>4.5</x1><y1>3</y1><x2>20</x2><y2>3</y2><x3>20</x3><y3>12</y3></polygon>"
    write(tmp_path, {"train/a.xml": VOC.format("a.png", VOC_BOX + outline), "train/a.png": IMAGE})
    row = open_dataset(tmp_path).coco()["annotations"][0]
    assert (row["bbox"], row["segmentation"]) == ([4, 3, 16, 9], [[4.5, 3, 20, 3, 20, 12]])
    write(tmp_path, {"train/a.xml": VOC.format("a.png", VOC_BOX + outline.replace("y3>", "z3>"))})
    with pytest.raises(DataError, match=r"train/a\.xml, object 1: the outline is .*None"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("labels", ["", "background:0,0,0::\nperson:192,128,128::\nignored:224,224,192::\n"])
def test_the_rim_around_objects_is_no_object_in_masks_of_colours_either(labels, tmp_path):
    ids, classes = np.zeros((2, 30, 40, 3), np.uint8)
    ids[2:9, 3:9] = classes[2:9, 3:9] = (224, 224, 192)
    ids[3:8, 4:8], classes[3:8, 4:8] = (128, 0, 0), (192, 128, 128)
    files = {"JPEGImages/a.png": IMAGE, "SegmentationObject/a.png": ids, "SegmentationClass/a.png": classes}
    write(tmp_path, {**files, **({"labelmap.txt": labels} if labels else {})})
    dataset = open_dataset(tmp_path)
    assert [dataset.class_names[k] for k in dataset[0].classes] == ["person"]
    assert dataset[0].boxes.tensor.tolist() == [[4, 3, 8, 8]]
    assert "ignored" not in dataset.class_names
    write(tmp_path, {"Annotations/a.xml": VOC.format("a.png", VOC_BOX).replace("cat", "person")})
    row = open_dataset(tmp_path).coco()["annotations"][0]
    assert (row["bbox"], row["area"]) == ([4, 3, 16, 9], 20), "colour 1 of the palette is object 1 of the XML"


@pytest.mark.parametrize(
    ("lists", "parts"),
    [
        ({"trainval": "ab", "test": "c"}, {"trainval": 2, "test": 1}),
        ({"trainval": "abc", "val": "c"}, {"train": 2, "val": 1}),
        ({"trainval": "abc", "train": "ab", "val": "c"}, {"train": 2, "val": 1}),
    ],
)
def test_trainval_is_to_train_on_but_for_what_is_in_val(lists, parts, tmp_path):
    root = folder(tmp_path, {f"Main/{part}": stems for part, stems in lists.items()}, *"abc")
    dataset = open_dataset(root)
    assert {part: len(open_dataset(root, split=part)) for part in dataset.splits} == parts
    assert len(open_dataset(root, split="train")) == 2


def test_of_images_that_differ_in_suffix_the_one_that_the_xml_names_counts(tmp_path):
    write(tmp_path, {"a.xml": VOC.format("a.png", VOC_BOX), "a.jpg": IMAGE, "a.png": IMAGE})
    assert open_dataset(tmp_path).image_path(0) == str(tmp_path / "a.png")


def test_the_twenty_classes_are_those_of_a_vocdevkit_alone(tmp_path):
    write(tmp_path, {"a.xml": VOC.format("a.png", VOC_BOX), "a.png": IMAGE})
    assert open_dataset(tmp_path).class_names == ("cat",)
    root = folder(tmp_path / "VOC2012", {"Main/train": ["a"]}, "a")
    assert open_dataset(root).class_names[7] == "cat"


@pytest.mark.parametrize(
    "line", ['"{}"', "JPEGImages/{}.png", "/home/me/VOC/JPEGImages/{}.png", r"C:\VOC\JPEGImages\{}.png"]
)
def test_an_image_of_a_list_keeps_its_objects_however_it_is_named(line, tmp_path):
    root = folder(tmp_path, {"Main/train": [line.format(stem) for stem in ("a b", "c 1")]}, "a b", "c 1")
    write(root, {"ImageSets/Main/cat_train.txt": '"a b"  1\n"c 1" -1\n'})
    dataset = open_dataset(root)
    assert (dataset.splits, dataset.notes) == (("train",), ())
    assert [len(record.classes) for record in dataset] == [1, 1]


def test_images_of_two_devkits_may_have_one_name(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        folder(tmp_path / year, {"Main/train": ["1"]}, "1")
    assert [len(record.classes) for record in open_dataset(tmp_path, split="train")] == [1, 1]


def test_labels_of_images_in_no_list_are_said(tmp_path):
    dataset = open_dataset(folder(tmp_path, {"Main/train": ["a"]}, *"abc"))
    assert len(dataset) == 1
    what = "2 XML files left out, such as Annotations/b.xml: no list of ImageSets names the image"
    assert dataset.notes == (what,)


def test_labels_lie_in_the_folder_of_annotations_and_below_it(tmp_path):
    assert len(open_dataset(folder(tmp_path, {}, "a", "cam 1/b"))) == 2


@pytest.mark.parametrize("number", [1, 3])
def test_an_instance_mask_of_another_object_than_the_boxes_is_one_more(number, tmp_path):
    ids = np.zeros((30, 40), np.uint8)
    ids[20:28, 25:35] = number  # CVAT writes rectangles as XML and brush masks as images
    labels = "background:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n"
    masks = {"SegmentationObject/a.png": ids, "SegmentationClass/a.png": 2 * (ids > 0).astype(np.uint8)}
    write(folder(tmp_path, {"Main/default": ["a"]}, "a"), {**masks, "labelmap.txt": labels})
    dataset = open_dataset(tmp_path)
    assert [dataset.class_names[k] for k in dataset[0].classes] == ["cat", "dog"]
    assert dataset[0].boxes.tensor.tolist() == [[4, 3, 20, 12], [25, 20, 35, 28]]
    assert dataset[0].masks.areas().tolist() == [144, 80]


def test_class_masks_alone_are_told_from_masks_of_objects(tmp_path):
    write(tmp_path, {"JPEGImages/a.png": IMAGE, "SegmentationClass/a.png": np.ones((30, 40), np.uint8)})
    with pytest.raises(DataError, match=r"SegmentationClass/a\.png tells no objects apart"):
        open_dataset(tmp_path)


def test_labels_may_lie_beside_their_images(tmp_path):
    files = {
        "JPEGImages/a.xml": VOC.format("a.png", VOC_BOX),
        "JPEGImages/a.png": IMAGE,
        "ImageSets/Main/train.txt": "a",
    }
    write(tmp_path, files)
    dataset = open_dataset(tmp_path)
    assert (len(dataset[0].classes), dataset.notes) == (1, ())


def test_masks_may_lie_elsewhere_than_the_images_that_are_named_like_them(tmp_path):
    ids = np.zeros((30, 40), np.uint8)
    ids[4:10, 5:15] = 1
    write(folder(tmp_path, {"Main/train": ["a"]}, "a"), {"masks/SegmentationObject/a.png": ids})
    assert open_dataset(tmp_path)[0].masks.areas().tolist() == [60]
