"""Small folders as tools and their versions write them, with the boxes of their images and their parts."""

import base64
import io
import json
import math
import unicodedata

import numpy as np
from PIL import Image

IMAGE = None
"""Stands for an image of 40 x 30 pixels."""
BOX = [4, 3, 20, 12]
YOLO = "0 0.3 0.25 0.4 0.3\n"
NAMES = "names: [cat, dog]\n"
VOC = "<annotation><filename>{}</filename><object><name>cat</name>{}</object></annotation>"
VOC_BOX = "<bndbox><xmin>5</xmin><ymin>4</ymin><xmax>20</xmax><ymax>12</ymax></bndbox>"
SHAPE = {"label": "cat", "points": [[4, 3], [20, 12]], "shape_type": "rectangle"}
STUDIO = {"x": 10, "y": 10, "width": 40, "height": 30, "rotation": 0, "original_width": 40, "original_height": 30}
STUDIO_BOX = {"type": "rectanglelabels", **STUDIO, "value": {**STUDIO, "rectanglelabels": ["cat"]}}
REGION = {"name": "rect", "x": 4, "y": 3, "width": 16, "height": 9}
PERSON = {"tag": "person", "fbox": [4, 3, 16, 9]}
CATEGORIES = [{"id": 1, "name": "cat"}]
IDS = np.zeros((30, 40), np.uint8)
IDS[3:12, 4:20] = 3


def coco(*names, **fields):
    row = {"category_id": 1, "bbox": [4, 3, 16, 9], "area": 144, "iscrowd": 0, "segmentation": [], **fields}
    images = [{"id": i, "file_name": name, "height": 30, "width": 40} for i, name in enumerate(names)]
    rows = [{"id": i, "image_id": i, **row} for i in range(len(names))]
    return {"images": images, "annotations": rows, "categories": CATEGORIES}


def labelme(*shapes, image="a.png"):
    return {"imagePath": image, "imageHeight": 30, "imageWidth": 40, "imageData": None, "shapes": list(shapes)}


def supervisely(kind, points, **more):
    thing = {"classTitle": "cat", "geometryType": kind, "points": points, **more}
    return {"size": {"height": 30, "width": 40}, "objects": [thing]}


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


TRACK = '<box frame="{}" outside="{}" occluded="0" keyframe="1" xtl="4" ytl="3" xbr="20" ybr="12"/>'
VIDEO = (
    "<annotations><meta><task><labels><label><name>cat</name></label></labels>"
    "<original_size><width>40</width><height>30</height></original_size></task></meta>"
    f'<track id="0" label="cat" source="manual">{TRACK.format(0, 0)}{TRACK.format(1, 0)}{TRACK.format(2, 1)}</track>'
    "</annotations>"
)
VIA3 = {
    "project": {"pid": "x"},
    "attribute": {
        "1": {"aname": "class", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": {"0": "dog", "1": "cat"}},
        "2": {"aname": "note", "anchor_id": "FILE1_Z0_XY1", "type": 1, "options": {}},
    },
    "file": {"1": {"fid": "1", "fname": "a.png", "type": 2, "loc": 1, "src": ""}},
    "view": {"1": {"fid_list": ["1"]}},
    "metadata": {
        "1_a": {"vid": "1", "flg": 0, "z": [], "xy": [2, 4, 3, 16, 9], "av": {"1": "1", "2": "x"}},
        "1_b": {"vid": "1", "flg": 0, "z": [], "xy": [7, 1, 1, 9, 1, 9, 9], "av": {"1": "0"}},
        "1_c": {"vid": "1", "flg": 0, "z": [], "xy": [1, 5, 5], "av": {"1": "0"}},
        "1_d": {"vid": "1", "flg": 0, "z": [1.0, 2.0], "xy": [], "av": {"1": "0"}},
    },
}
VIA3_CSV = """# Exported using VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)
# Notes:
# - metadata of {""1"":""3""} indicates attribute with id "1" set to an attribute option with id "3"
# SHAPE_ID = {"POINT":1,"RECTANGLE":2}
# ATTRIBUTE = {"1":{"aname":"class","anchor_id":"FILE1_Z0_XY1","type":4,"options":{"0":"dog","1":"cat"}}}
# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata
"1_a","[""a.png""]",0,"[]","[2,4,3,16,9]","{""1"":""1""}"
"1_b","[""a.png""]",0,"[]","[8,1,5,5,1,9,5,5,9]","{""1"":""0""}"
"""
VIA_CSV = (
    "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    'a.png,100,"{}",1,0,"{""name"":""rect"",""x"":4,""y"":3,""width"":16,""height"":9}","{""class"":""cat""}"\n'
    'b.png,100,"{}",0,0,"{}","{}"\n'
)
ONE = {"a": [BOX]}
TWO = {"a": [BOX], "b": []}
BOTH = {"a": [BOX], "b": [BOX]}
SPLIT = ("train", "val")

CASES = {
    # Ultralytics, Roboflow, Darknet and others
    "a YAML below": (
        {"x/data.yaml": "train: train/images\n" + NAMES, "x/train/images/a.png": IMAGE, "x/train/labels/a.txt": YOLO},
        ONE,
        ("train",),
    ),
    "a part that is not there": (
        {
            "data.yaml": "train: ../train/images\ntest: ../test/images\n" + NAMES,
            "train/images/a.png": IMAGE,
            "train/labels/a.txt": YOLO,
        },
        ONE,
        ("train",),
    ),
    "letters of labels in another case": (
        {"data.yaml": "train: images\n" + NAMES, "images/a.PNG": IMAGE, "Labels/A.txt": YOLO},
        ONE,
        ("train",),
    ),
    "labels in another Unicode form": (
        {
            "data.yaml": "train: images\n" + NAMES,
            "images/ä.png": IMAGE,
            f"labels/{unicodedata.normalize('NFD', 'ä')}.txt": YOLO,
        },
        {"ä": [BOX]},
        ("train",),
    ),
    "Windows paths": (
        {
            "data.yaml": "train: C:\\Users\\me\\ds\\train\\images\nval: C:\\Users\\me\\ds\\valid\\images\n" + NAMES,
            "train/images/a.png": IMAGE,
            "train/labels/a.txt": YOLO,
            "valid/images/b.png": IMAGE,
            "valid/labels/b.txt": "",
        },
        TWO,
        SPLIT,
    ),
    "paths of another machine": (
        {
            "data.yaml": "path: /content/ds\ntrain: images/train\n" + NAMES,
            "images/train/a.png": IMAGE,
            "labels/train/a.txt": YOLO,
        },
        ONE,
        ("train",),
    ),
    "a list of another machine": (
        {
            "data.yaml": "path: /content/ds\ntrain: train.txt\n" + NAMES,
            "train.txt": "/content/ds/images/train/a.png\n",
            "images/train/a.png": IMAGE,
            "images/val/a.png": IMAGE,
            "labels/train/a.txt": YOLO,
        },
        ONE,
        ("train",),
    ),
    "JPEGImages of Darknet": ({"classes.names": "cat\n", "JPEGImages/a.png": IMAGE, "labels/a.txt": YOLO}, ONE, ()),
    "LabelImg's classes": (
        {"train/labels/classes.txt": "cat\ndog\n", "train/images/a.png": IMAGE, "train/labels/a.txt": YOLO},
        ONE,
        ("train",),
    ),
    "turned boxes": (
        {
            "data.yaml": "train: images\n" + NAMES,
            "images/a.png": IMAGE,
            "labels/a.txt": "0 .3 .1 .5 .25 .3 .4 .1 .25\n",
        },
        {"a": [[4, 3, 20, 12]]},
        ("train",),
    ),
    # COCO's form
    "FiftyOne": ({"labels.json": coco("a.png", "b.png"), "data/a.png": IMAGE, "data/b.png": IMAGE}, BOTH, ()),
    "Ultralytics' COCO": (
        {
            "annotations/instances_train2017.json": coco("a.png"),
            "annotations/instances_val2017.json": coco("b.png"),
            "images/train2017/a.png": IMAGE,
            "images/val2017/b.png": IMAGE,
            "annotations/captions_val2017.json": {"images": [], "annotations": []},
        },
        BOTH,
        SPLIT,
    ),
    "Label Studio's COCO": (
        {
            "result.json": coco("../../label-studio/data/media/upload/1/a.png", "images\\b.png"),
            "images/a.png": IMAGE,
            "images/b.png": IMAGE,
        },
        BOTH,
        (),
    ),
    "several files of one part": (
        {"cam1.json": coco("1/a.png"), "cam2.json": coco("2/b.png"), "1/a.png": IMAGE, "2/b.png": IMAGE},
        BOTH,
        (),
    ),
    "an older file of the same images": (
        {
            "instances_train.json": coco("a.png"),
            "person_keypoints_train.json": coco("a.png", bbox=[1, 1, 2, 2]),
            "train/a.png": IMAGE,
        },
        ONE,
        ("train",),
    ),
    "an empty outline": ({"a.json": coco("a.png", segmentation=[[]]), "a.png": IMAGE}, ONE, ()),
    # Pascal VOC
    "Roboflow's VOC": (
        {
            "train/a.xml": VOC.format("a.png", VOC_BOX),
            "train/a.png": IMAGE,
            "valid/a.png": IMAGE,
            "valid/a.xml": VOC.format("a.png", VOC_BOX),
            "README.roboflow.txt": "x",
        },
        {"a": [BOX]},
        SPLIT,
    ),
    "LabelImg": ({"a.xml": VOC.format("a.png", VOC_BOX), "a.png": IMAGE}, ONE, ()),
    "CVAT's VOC in folders": (
        {
            "Annotations/x/a.xml": VOC.format("x/a.png", VOC_BOX),
            "Annotations/y/a.xml": VOC.format("y/a.png", VOC_BOX),
            "JPEGImages/x/a.png": IMAGE,
            "JPEGImages/y/a.png": IMAGE,
            "ImageSets/Main/default.txt": "x/a\ny/a\n",
        },
        {"a": [BOX]},
        ("default",),
    ),
    # CVAT
    "CVAT for video": (
        {
            "annotations.xml": VIDEO,
            "images/frame_000000.png": IMAGE,
            "images/frame_000001.png": IMAGE,
            "images/frame_000002.png": IMAGE,
        },
        {"frame_000000": [BOX], "frame_000001": [BOX], "frame_000002": []},
        (),
    ),
    # LabelMe and its relatives
    "four corners": (
        {"a.json": labelme({**SHAPE, "points": [[4, 3], [20, 3], [20, 12], [4, 12]]}), "a.png": IMAGE},
        ONE,
        (),
    ),
    "a turned rectangle": (
        {
            "a.json": labelme({**SHAPE, "shape_type": "rotation", "points": [[12, 3], [20, 8], [12, 12], [4, 8]]}),
            "a.png": IMAGE,
        },
        ONE,
        (),
    ),
    "a line, a point and flags": (
        {
            "a.json": {
                **labelme(
                    SHAPE, {**SHAPE, "shape_type": "linestrip"}, {**SHAPE, "shape_type": "point", "points": [[1, 1]]}
                ),
                "flags": {"x": True},
                "version": "3.16.7",
                "lineColor": [0, 255, 0, 128],
            },
            "a.png": IMAGE,
        },
        ONE,
        (),
    ),
    "an image of another suffix": ({"a.json": labelme(SHAPE, image="..\\raw\\a.bmp"), "a.png": IMAGE}, ONE, ()),
    # Label Studio
    "JSON_MIN": (
        {
            "p.json": [
                {
                    "id": 1,
                    "image": "/data/upload/1/a.png",
                    "label": [{**STUDIO, "rectanglelabels": ["cat"]}],
                    "annotator": 1,
                    "annotation_id": 2,
                    "lead_time": 1.5,
                },
                {"id": 2, "image": "/data/upload/1/b.png", "annotator": 1, "annotation_id": 3},
            ],
            "a.png": IMAGE,
            "b.png": IMAGE,
        },
        TWO,
        (),
    ),
    "completions": (
        {
            "p.json": [
                {
                    "id": 1,
                    "data": {"image": "/data/a.png"},
                    "completions": [
                        {
                            "result": [
                                {
                                    "type": "rectanglelabels",
                                    "original_width": 40,
                                    "original_height": 30,
                                    "value": {**STUDIO, "rectanglelabels": ["cat"]},
                                }
                            ]
                        }
                    ],
                }
            ],
            "a.png": IMAGE,
        },
        ONE,
        (),
    ),
    # Supervisely
    "a project in a folder": (
        {
            "p/meta.json": {"classes": [{"title": "cat", "shape": "alpha_mask"}]},
            "p/ds/img/a.png": IMAGE,
            "p/ds/ann/a.png.json": supervisely("rectangle", {"exterior": [[4, 3], [19, 11]], "interior": []}),
        },
        ONE,
        ("ds",),
    ),
    "a turned box": (
        {
            "meta.json": {"classes": [{"title": "cat", "shape": "oriented_bbox"}]},
            "ds/img/a.png": IMAGE,
            "ds/ann/a.png.json": supervisely("oriented_bbox", [[7.5, -0.5], [15.5, 14.5]], angle=math.pi / 2),
        },
        ONE,
        ("ds",),
    ),
    # KITTI
    "lists of images": (
        {
            **{f"training/label_2/{name}.txt": f"cat 0 0 0 4 3 20 12 {'0 ' * 7}\n" for name in ("a", "b")},
            **{f"training/image_2/{name}.png": IMAGE for name in ("a", "b")},
            "testing/image_2/c.png": IMAGE,
            "ImageSets/train.txt": "b\n",
            "ImageSets/val.txt": "a\n",
            "ImageSets/trainval.txt": "a\nb\n",
            "ImageSets/test.txt": "c\n",
        },
        {"a": [BOX], "b": [BOX]},
        ("train", "val"),
    ),
    # VIA
    "VIA 3": ({"via.json": VIA3, "a.png": IMAGE}, {"a": [BOX, [1, 1, 9, 9]]}, ()),
    "VIA 3's CSV": ({"via.csv": VIA3_CSV, "a.png": IMAGE}, {"a": [BOX, [1, 1, 9, 9]]}, ()),
    "VIA's CSV": ({"via.csv": VIA_CSV, "a.png": IMAGE, "b.png": IMAGE}, TWO, ()),
    "a checkbox": (
        {
            "via.json": {
                "_via_settings": {},
                "_via_img_metadata": {
                    "a": {
                        "filename": "a.png",
                        "size": 1,
                        "regions": [{"shape_attributes": REGION, "region_attributes": {"name": {"cat": True}}}],
                    }
                },
            },
            "a.png": IMAGE,
        },
        ONE,
        (),
    ),
    "parts by the names of files": (
        {
            "via_train.json": {
                "a": {
                    "filename": "a.png",
                    "regions": {"0": {"shape_attributes": REGION, "region_attributes": {"class": "cat"}}},
                }
            },
            "via_val.json": {"b": {"filename": "b.png", "regions": {}}},
            "a.png": IMAGE,
            "b.png": IMAGE,
        },
        TWO,
        SPLIT,
    ),
    # masks
    "Cityscapes' coarse masks": (
        {
            "leftImg8bit/train/x/x_1_leftImg8bit.png": IMAGE,
            "gtCoarse/train/x/x_1_gtCoarse_instanceIds.png": np.where(IDS, 26001, 0).astype(np.uint16),
        },
        {"x_1_leftImg8bit": [BOX]},
        ("train",),
    ),
    "masks in parts": (
        {"train/images/a.png": IMAGE, "train/masks/a.png": IDS, "val/images/b.png": IMAGE, "val/masks/b.png": IDS * 0},
        TWO,
        SPLIT,
    ),
    "parts of masks": (
        {"images/train/a.png": IMAGE, "masks/train/a.png": IDS, "images/val/b.png": IMAGE, "masks/val/b.png": IDS * 0},
        TWO,
        SPLIT,
    ),
    "names of masks": ({"images/a.jpg": IMAGE, "masks/a_mask.png": IDS.astype(np.uint16) * 1000}, ONE, ()),
    "objects' files in parts": (
        {
            "stage1_train/a/images/a.png": IMAGE,
            "stage1_train/a/masks/x.png": IDS,
            "val/b/images/b.png": IMAGE,
            "val/b/masks/y.png": IDS,
        },
        BOTH,
        SPLIT,
    ),
    "greys as colours": (
        {"images/a.png": IMAGE, "masks/a.png": np.repeat(IDS[..., None], 3, 2)},
        ONE,
        (),
    ),
    "KITTI with scores and spaces": (
        {
            "image_2/a.png": IMAGE,
            "label_2/a.txt": f"big cat 0.00 0 -1.57 4 3 20 12{' 1' * 7}\ncat 0 0 0 1 1 9 9{' 1' * 7} 0.87\n",
        },
        {"a": [BOX, [1, 1, 9, 9]]},
        (),
    ),
    "CrowdHuman in pieces": (
        {f"annotation_train0{i}.odgt": {"ID": x, "gtboxes": [PERSON]} for i, x in enumerate("ab")}
        | {f"Images/{x}.jpg": IMAGE for x in "ab"},
        BOTH,
        ("train",),
    ),
    "KITTI in folders": (
        {f"image_2/{name}.png": IMAGE for name in ("x/a", "y/b")}
        | {f"label_2/{name}.txt": f"cat 0 0 0 4 3 20 12{' 1' * 7}\n" for name in ("x/a", "y/b")},
        BOTH,
        (),
    ),
    "Open Images under another name": (
        {
            "all_bounding_boxes.csv": "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded\n"
            "a,x,cat,1,0.1,0.5,0.1,0.4,0\n",
            "a.png": IMAGE,
        },
        ONE,
        (),
    ),
    "a panoptic set of PNG images": (
        {
            "annotations/panoptic_val.json": {
                "images": [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}],
                "annotations": [
                    {"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 3, "category_id": 1, "iscrowd": 0}]}
                ],
                "categories": [{"id": 1, "name": "cat", "isthing": 1}],
            },
            "annotations/panoptic_val/a.png": np.stack([IDS, IDS * 0, IDS * 0], 2),
            "val/a.png": IMAGE,
        },
        ONE,
        ("val",),
    ),
    "a control of labels": (
        {
            "p.json": [
                {
                    "id": 1,
                    "data": {"image": "/data/a.png"},
                    "annotations": [
                        {
                            "result": [
                                {"type": "rectangle", "original_width": 40, "original_height": 30, "value": STUDIO},
                                {
                                    "type": "labels",
                                    "original_width": 40,
                                    "original_height": 30,
                                    "value": {**STUDIO, "labels": ["cat"]},
                                },
                            ]
                        }
                    ],
                }
            ],
            "a.png": IMAGE,
        },
        ONE,
        (),
    ),
    "images as they were before Label Studio took them": (
        {
            "p.json": [
                {"id": 1, "file_upload": "0a1b2c31-a.png", "data": {}, "annotations": [{"result": [STUDIO_BOX]}]},
                {"id": 2, "file_upload": "0a1b2c32-b.png", "data": {}, "annotations": [{"result": []}]},
            ],
            "a.png": IMAGE,
            "b.png": IMAGE,
        },
        TWO,
        (),
    ),
    "frames without a suffix": (
        {
            "annotations.xml": VIDEO[: VIDEO.index("<track")]
            + '<image id="0" name="frame_000000" width="40" height="30">'
            + TRACK.format(0, 0).replace("<box", '<box label="cat"')
            + "</image></annotations>",
            "images/frame_000000.PNG": IMAGE,
        },
        {"frame_000000": [BOX]},
        (),
    ),
    "DOTA 1.5": (
        {
            "train/images/a.png": IMAGE,
            "train/labelTxt-v1.5/DOTA-v1.5_train/a.txt": "acquisition dates:x\ngsd:null\n12 3 20 8 12 12 4 8 cat 1\n",
        },
        ONE,
        ("train",),
    ),
}


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None or isinstance(content, np.ndarray):
            Image.fromarray(np.zeros((30, 40, 3), np.uint8) if content is None else content).save(path)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
