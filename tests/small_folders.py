"""A small folder of two labelled images in each format."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (30, 40)
CATEGORIES = [{"id": 3, "name": "cat", "supercategory": "animal", "isthing": 1}]
XML_BOX = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
CVAT_LABELS = "<meta><labels><label><name>cat</name></label></labels></meta>"
STUDIO_RESULT = {
    "type": "rectanglelabels",
    "from_name": "label",
    "original_width": 40,
    "original_height": 30,
    "value": {"x": 10, "y": 10, "width": 50, "height": 50, "rectanglelabels": ["cat"]},
}
COCO_OBJECT = {"id": 8, "image_id": 1, "category_id": 3, "bbox": [2, 3, 10, 9], "area": 90, "iscrowd": 0}
SQUARE = [[2, 3, 12, 3, 12, 12, 2, 12]]
SHAPE = {"label": "cat", "shape_type": "polygon", "points": [[2, 3], [12, 3], [12, 12]]}


def make_folder(format: str, root: Path) -> Path:
    """Writes the folder of a format, by the name of its class; the second image has no object where that can be."""
    text, images, ids = FOLDERS[format]
    for name in images:
        _write_image(root / name, np.zeros((*SIZE, 3), np.uint8))
    for name in ids:
        values = np.zeros(
            (*SIZE, 3) if format == "CocoPanopticFolder" else SIZE, np.uint16 if "gtFine" in name else np.uint8
        )
        values[3:12, 2:12] = [7, 0, 0] if values.ndim == 3 else 26001 if "gtFine" in name else 1
        _write_image(root / name, values)
    for name, content in text.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def _write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _coco(**fields):
    return [{"id": i, "height": 30, "width": 40, "file_name": f"{i}.png", **fields} for i in (1, 2)]


FOLDERS = {
    "CityscapesDataset": (
        {},
        ["leftImg8bit/val/a/a_1_leftImg8bit.png", "leftImg8bit/val/a/a_2_leftImg8bit.png"],
        ["gtFine/val/a/a_1_gtFine_instanceIds.png", "gtFine/val/a/a_2_gtFine_instanceIds.png"],
    ),
    "CocoFolder": (
        {
            "val/_annotations.coco.json": {
                "images": _coco(),
                "annotations": [{**COCO_OBJECT, "segmentation": SQUARE}],
                "categories": CATEGORIES,
            }
        },
        ["val/1.png", "val/2.png"],
        [],
    ),
    "LvisFolder": (
        {
            "lvis_val.json": {
                "images": [
                    {
                        "id": i,
                        "height": 30,
                        "width": 40,
                        "coco_url": f"http://a/val2017/{i}.png",
                        "neg_category_ids": [],
                    }
                    for i in (1, 2)
                ],
                "annotations": [{**COCO_OBJECT, "segmentation": SQUARE}],
                "categories": CATEGORIES,
            }
        },
        ["val2017/1.png", "val2017/2.png"],
        [],
    ),
    "CocoPanopticFolder": (
        {
            "panoptic_val.json": {
                "images": [{**image, "file_name": f"{image['id']}.jpg"} for image in _coco()],
                "annotations": [
                    {"image_id": 1, "file_name": "1.png", "segments_info": [{"id": 7, "category_id": 3, "iscrowd": 0}]}
                ],
                "categories": CATEGORIES,
            }
        },
        ["images/1.jpg", "images/2.jpg"],
        ["segments/1.png"],
    ),
    "CrowdHumanDataset": (
        {
            "annotation_val.odgt": '{"ID": "a", "gtboxes": [{"tag": "person", "fbox": [2, 3, 10, 9]}]}\n'
            '{"ID": "b", "gtboxes": []}\n'
        },
        ["Images/a.png", "Images/b.png"],
        [],
    ),
    "CvatDataset": (
        {
            "annotations.xml": f"<annotations>{CVAT_LABELS}"
            '<image id="4" name="a.png" width="40" height="30"><box label="cat" xtl="2" ytl="3" xbr="9" ybr="9"/>'
            "</image>"
            '<image id="9" name="b.png" width="40" height="30"/></annotations>'
        },
        ["images/a.png", "images/b.png"],
        [],
    ),
    "DotaDataset": (
        {"labelTxt/a.txt": "1 1 9 1 9 9 1 9 plane 0\n", "labelTxt/b.txt": ""},
        ["images/a.png", "images/b.png"],
        [],
    ),
    "KittiDataset": (
        {"label_2/a.txt": f"Car 0 0 0 1 2 9 9{' 0' * 7}\n", "label_2/b.txt": ""},
        ["image_2/a.png", "image_2/b.png"],
        [],
    ),
    "LabelMeDataset": (
        {
            "a.json": {"imagePath": "a.png", "imageHeight": 30, "imageWidth": 40, "shapes": [SHAPE]},
            "b.json": {"imagePath": "b.png", "imageHeight": 30, "imageWidth": 40, "shapes": []},
        },
        ["a.png", "b.png"],
        [],
    ),
    "LabelMeXmlDataset": (
        {
            "a.xml": "<annotation><filename>a.png</filename><object><name>cat</name><deleted>0</deleted><polygon>"
            "<pt><x>2</x><y>3</y></pt><pt><x>12</x><y>3</y></pt><pt><x>12</x><y>12</y></pt></polygon></object>"
            "</annotation>",
            "b.xml": "<annotation><filename>b.png</filename><imagesize><nrows>30</nrows></imagesize></annotation>",
        },
        ["a.png", "b.png"],
        [],
    ),
    "LabelStudioDataset": (
        {
            "tasks.json": [
                {"id": 5, "data": {"image": "/data/a.png"}, "annotations": [{"result": [STUDIO_RESULT]}]},
                {"id": 6, "data": {"image": "/data/b.png"}, "annotations": [{"result": []}]},
            ]
        },
        ["a.png", "b.png"],
        [],
    ),
    "MaskImagesDataset": ({}, ["images/a.png", "images/b.png"], ["masks/a.png", "masks/b.png"]),
    "OpenImagesDataset": (
        {
            "annotations/train-annotations-bbox.csv": "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n"
            "a,/m/1,.1,.4,.1,.4,0\n",
            "annotations/class-descriptions.csv": "/m/1,cat\n",
        },
        ["images/train/a.png", "images/train/b.png"],
        [],
    ),
    "SuperviselyDataset": (
        {
            "meta.json": {"classes": [{"title": "cat"}]},
            "train/ann/a.png.json": {
                "size": {"height": 30, "width": 40},
                "objects": [
                    {"classTitle": "cat", "geometryType": "rectangle", "points": {"exterior": [[2, 3], [11, 12]]}}
                ],
            },
            "train/ann/b.png.json": {"size": {"height": 30, "width": 40}, "objects": []},
        },
        ["train/img/a.png", "train/img/b.png"],
        [],
    ),
    "ViaDataset": (
        {
            "via.json": {
                "a": {
                    "filename": "a.png",
                    "regions": [{"shape_attributes": {"name": "rect", "x": 2, "y": 3, "width": 9, "height": 9}}],
                },
                "b": {"filename": "b.png", "regions": []},
            }
        },
        ["a.png", "b.png"],
        [],
    ),
    "VocDataset": (
        {
            "Annotations/a.xml": f"<annotation><object><name>cat</name>{XML_BOX}</object></annotation>",
            "Annotations/b.xml": "<annotation></annotation>",
        },
        ["JPEGImages/a.png", "JPEGImages/b.png"],
        [],
    ),
    "YoloDataset": (
        {"data.yaml": "train: images\nnames: [cat]\n", "labels/a.txt": "0 .5 .5 .2 .2\n"},
        ["images/a.png", "images/b.png"],
        [],
    ),
}
FOLDERS["AutoDataset"] = FOLDERS["YoloDataset"]
