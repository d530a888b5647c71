"""The XML of LabelMe's web tool is read, and is not taken for that of Pascal VOC, whose root and objects it shares."""

import numpy as np
import pytest
from variant_folders import BOX, IDS, IMAGE, VOC, VOC_BOX, write

from detkit.data import open_dataset
from detkit.registry import DataError

SOURCE = "<source><sourceAnnotation>LabelMe Webtool</sourceAnnotation></source>"
CORNERS = ((4, 3), (20, 3), (20, 12), (4, 12))


def xml(*objects, name="a.png", folder="f"):
    things = "".join(f"<object>{thing}</object>" for thing in objects)
    return f"<annotation><filename>{name}</filename><folder>{folder}</folder>{SOURCE}{things}</annotation>"


def thing(corners=CORNERS, name="cat", deleted=0, kind=""):
    points = "".join(f"<pt>\n<x>\n{x}\n</x><y>{y}</y></pt>" for x, y in corners)
    return f"<name>\n{name}\n</name><deleted>{deleted}</deleted>{kind}<polygon><username/>{points}</polygon>"


WEB = ("Annotations/f/a.xml", "Images/f/a.png")
CVAT = ("f/a.xml", "f/a.png")


@pytest.mark.parametrize(("labels", "image"), [WEB, CVAT, ("f/item_000000000.xml", "f/a.png"), ("a.xml", "a.png")])
def test_an_image_lies_beside_its_xml_or_in_the_folder_that_this_names(labels, image, tmp_path):
    write(tmp_path, {labels: xml(thing()), image: IMAGE, "Images/g/a.png": IMAGE})
    dataset = open_dataset(tmp_path)
    assert (dataset.format, dataset.class_names) == ("LabelMe XML", ("cat",))
    assert dataset.image_path(0) == str(tmp_path / image)
    assert dataset.coco()["annotations"][0]["segmentation"] == [[4, 3, 20, 3, 20, 12, 4, 12]]


def test_boxes_and_masks_are_read_beside_polygons(tmp_path):
    mask = np.zeros((30, 40, 4), np.uint8)
    mask[IDS > 0] = (255, 203, 0, 153)
    segment = "<name>dog</name><segm><mask>a_mask_1.png</mask><box><xmin>4</xmin></box></segm>"
    text = xml(thing(kind="<type>bounding_box</type>"), segment)
    write(tmp_path, {"f/a.xml": text, "f/a.png": IMAGE, "f/Masks/a_mask_1.png": mask})
    first, second = open_dataset(tmp_path).coco()["annotations"]
    assert [row["bbox"] for row in (first, second)] == [[4, 3, 16, 9]] * 2
    assert (first["segmentation"], second["segmentation"]["size"]) == ([[4, 3, 20, 3, 20, 12, 4, 12]], [30, 40])
    write(tmp_path, {"f/Masks/a_mask_1.png": mask[:9]})
    with pytest.raises(DataError, match=r"f/a\.xml, object 2: the mask is of 40 x 9 pixels, its image of 40 x 30"):
        open_dataset(tmp_path)


def test_what_was_deleted_has_no_class_or_covers_nothing_is_no_object(tmp_path, caplog):
    caplog.set_level("INFO")
    text = xml(thing(), thing(deleted=1), thing(CORNERS[:2]), thing(name=""))
    write(tmp_path, {"a.xml": text, "a.png": IMAGE})
    assert len(open_dataset(tmp_path)[0].boxes) == 1
    assert "2 labels without area or class left out" in caplog.text


def test_xml_of_pascal_voc_stays_that(tmp_path):
    outline = "<polygon><x1>4</x1><y1>3</y1><x2>20</x2><y2>3</y2><x3>20</x3><y3>12</y3></polygon>"
    texts = {"a": VOC.format("a.png", VOC_BOX + outline), "b": "<annotation><filename>b.png</filename></annotation>"}
    for name, text in texts.items():
        write(tmp_path, {f"{name}.xml": text, f"{name}.png": IMAGE})
    dataset = open_dataset(tmp_path)
    assert dataset.format == "Pascal VOC"
    assert dataset[0].boxes.tensor.tolist() == [BOX]


def test_a_corner_that_is_none_is_named(tmp_path):
    write(tmp_path, {"a.xml": xml(thing(((1, 1), (9, "x"), (9, 9)))), "a.png": IMAGE})
    with pytest.raises(DataError, match=r"a\.xml, object 1: the outline is .*; expected numbers"):
        open_dataset(tmp_path)


def test_masks_of_the_web_tool_lie_in_a_folder_like_that_of_their_xml(tmp_path):
    segment = "<name>dog</name><segm><mask>a_mask_1.png</mask></segm>"
    for i, name in enumerate("fg"):
        mask = np.roll(IDS > 0, i, 0)
        write(tmp_path, {f"Annotations/{name}/a.xml": xml(segment, folder=name), f"Masks/{name}/a_mask_1.png": mask})
        write(tmp_path, {f"Images/{name}/a.png": IMAGE})
    boxes = [row["bbox"] for row in open_dataset(tmp_path).coco()["annotations"]]
    assert boxes == [[4, 3, 16, 9], [4, 4, 16, 9]]


def test_images_that_are_not_there_are_named_together(tmp_path):
    write(tmp_path, {f"{name}.xml": xml(thing(), name=f"{name}.png") for name in "abc"})
    with pytest.raises(DataError, match=r"a\.xml names the image 'a\.png', but .* 2 more: 'b\.png', 'c\.png'"):
        open_dataset(tmp_path)
