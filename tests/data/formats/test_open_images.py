"""The CSV files of Open Images are known by their columns, and may speak of more images than are there."""

import pytest
from variant_folders import BOX, IDS, IMAGE, write

from detkit.data import open_dataset
from detkit.registry import DataError

TITLES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf\n"
ROW = "{},xclick,/m/1,1,0.1,0.5,0.1,0.4,0,0\n"
MASKS = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax\na_m.png,a,/m/1,x,0.1,0.5,0.1,0.4\n"
FIFTYONE = {
    "{part}/data/{image}.jpg": IMAGE,
    "{part}/labels/detections.csv": TITLES + ROW,
    "{part}/metadata/classes.csv": "/m/1,cat\n/m/2,dog\n",
}


def fiftyone(root, **images):
    for part, image in images.items():
        files = {name.format(part=part, image=image): text for name, text in FIFTYONE.items()}
        write(root, {name: text if text is None else text.format(image) for name, text in files.items()})


def test_fiftyone_has_files_of_equal_names_in_the_folders_of_its_parts(tmp_path):
    fiftyone(tmp_path, train="a", validation="b")
    masks = {"train/labels/masks/A/a_m.png": (IDS > 0), "train/labels/segmentations.csv": MASKS}
    write(tmp_path, masks)
    dataset = open_dataset(tmp_path)
    assert (dataset.class_names, dataset.splits) == (("cat", "dog"), ("train", "validation"))
    assert [dataset.image_path(i)[-5:] for i in range(2)] == ["a.jpg", "b.jpg"]
    assert [dataset[i].boxes.tensor.round().tolist() for i in range(2)] == [[BOX], [BOX]]
    assert isinstance(open_dataset(tmp_path, split="train").coco()["annotations"][0]["segmentation"], dict)


def test_of_the_challenge_masks_and_classes_have_other_names_and_a_part_several_files(tmp_path):
    names = {
        "challenge-2019-train-detection-bbox.csv": "ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/1,0.1,0.5,0.1,0.4\n",
        "challenge-2019-train-segmentation-masks.csv": MASKS,
        "challenge-2019-classes-description-500.csv": "/m/1,cat\n",
        "oidv6-attributes-description.csv": "/m/9,Wooden\n",
        "train-annotations-human-bbox.csv": TITLES + ROW.format("b"),
    }
    write(tmp_path, {**names, "train/a.png": IMAGE, "train/b.png": IMAGE, "train-masks-0/a_m.png": (IDS > 0)})
    dataset = open_dataset(tmp_path)
    assert (dataset.class_names, dataset.splits, len(dataset)) == (("cat",), ("train",), 2)
    assert [dataset[i].boxes.tensor.round().tolist() for i in range(2)] == [[BOX], [BOX]]
    assert isinstance(dataset.coco()["annotations"][0]["segmentation"], dict)


def test_a_few_images_of_many_may_be_there(tmp_path, caplog):
    caplog.set_level("INFO")
    fiftyone(tmp_path, train="a")
    file = tmp_path / "train/labels/detections.csv"
    file.write_text(TITLES + "".join(ROW.format(name) for name in "xayz"))
    assert [len(record.boxes) for record in open_dataset(tmp_path)] == [1]
    assert "train/labels/detections.csv, line 2: there is no image of this ImageID; 3 such rows left out" in caplog.text
    file.write_text(TITLES + ROW.format("a") + "a,xclick\n")
    with pytest.raises(DataError, match=r"detections\.csv, line 3: has 2 values; expected 10, as line 1 has"):
        open_dataset(tmp_path)


def test_masks_that_belong_to_no_box_are_said(tmp_path):
    fiftyone(tmp_path, train="a")
    masks = MASKS + "b_m.png,a,/m/2,x,0.1,0.5,0.1,0.4\n"
    write(tmp_path, {"train/labels/segmentations.csv": masks, "train/labels/masks/A/a_m.png": (IDS > 0)})
    assert open_dataset(tmp_path).notes == ("1 mask left out, such as b_m.png: no box has the edges of its row",)


def test_a_file_in_another_encoding_is_said(tmp_path):
    fiftyone(tmp_path, train="a")
    (tmp_path / "train/labels/detections.csv").write_text(TITLES + ROW.format("a"), encoding="utf-16")
    with pytest.raises(DataError, match=r"detections\.csv: is not text in UTF-8; save it as that"):
        open_dataset(tmp_path)
