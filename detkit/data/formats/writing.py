"""Datasets written in the formats of COCO, YOLO and Pascal VOC."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image

from detkit.data.datasets.table_dataset import TableDataset
from detkit.data.formats.outlines import one_polygon
from detkit.registry import DataError
from detkit.utils.file_names import FreeNames
from detkit.utils.progress import watched

XML = """<annotation>
  <filename>{name}</filename>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
{objects}</annotation>
"""
OBJECT = """  <object>
    <name>{label}</name>
    <difficult>0</difficult>
    <bndbox><xmin>{x1:.8g}</xmin><ymin>{y1:.8g}</ymin><xmax>{x2:.8g}</xmax><ymax>{y2:.8g}</ymax></bndbox>
  </object>
"""


def write_dataset(datasets: Mapping[str, TableDataset], folder: str | os.PathLike[str], to: str) -> list[str]:
    """Writes the parts of a dataset, images and labels, into a folder.

    Args:
        datasets: name of each part, such as ``train``, and its images.
        folder: a folder that is empty or not there.
        to: ``coco``, ``yolo`` or ``voc``.

    Returns:
        What the format cannot hold and was left out, in words.

    Raises:
        DataError: there is no such format, the folder holds something, the parts have different classes.
    """
    if to not in WRITERS:
        raise DataError(f"to: there is no format '{to}' to write; there are {', '.join(WRITERS)}")
    root = Path(folder).expanduser()
    if root.is_dir() and any(root.iterdir()):
        raise DataError(f"{root}: is not empty; give a new folder, so that nothing of yours is mixed with it")
    names = {part: dataset.class_names for part, dataset in datasets.items()}
    if len(set(names.values())) > 1:
        raise DataError(f"the parts have different classes: {names}; give class_names")
    root.mkdir(parents=True, exist_ok=True)
    lost: dict[str, int] = {}
    WRITERS[to](datasets, root, lost)
    return [f"{count} {words}" for words, count in lost.items()]


def _copied(dataset: TableDataset, index: int, folder: Path, free: FreeNames, name: str | None = None) -> str:
    """Copies an image below the folder; its name there. One that is no file of its own is written as PNG."""
    source = dataset.image_path(index)
    own = PurePosixPath((name or dataset.table.images.file_name(index)).replace("\\", "/"))
    folders = [part for part in own.parts[:-1] if part not in ("/", "..")]
    relative = free(Path(*folders, own.name)).as_posix()
    if source is not None and os.path.isfile(source):
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return relative
    relative = f"{PurePosixPath(relative).with_suffix('')}.png"
    (folder / relative).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(dataset.read_image(index)).save(folder / relative)
    return relative


def _by_image(content: Mapping[str, Any]) -> Iterable[tuple[int, dict[str, Any], list[dict[str, Any]]]]:
    rows: dict[Any, list[dict[str, Any]]] = {}
    for row in content["annotations"]:
        rows.setdefault(row["image_id"], []).append(row)
    for index, image in watched(enumerate(content["images"]), "images", total=len(content["images"])):
        yield index, image, rows.get(image["id"], [])


def _write_coco(datasets: Mapping[str, TableDataset], root: Path, lost: dict[str, int]) -> None:
    (root / "annotations").mkdir()
    for part, dataset in datasets.items():
        content, free = dataset.coco(), FreeNames(by_stem=True)
        for index, image in watched(enumerate(content["images"]), f"{part}: images", total=len(dataset)):
            image["file_name"] = _copied(dataset, index, root / "images" / part, free)
        (root / f"annotations/instances_{part}.json").write_text(json.dumps(content), encoding="utf-8")


def _write_yolo(datasets: Mapping[str, TableDataset], root: Path, lost: dict[str, int]) -> None:
    described: dict[str, Any] = {}
    for part, dataset in datasets.items():
        content, described[part] = dataset.coco(), f"images/{part}"
        free = FreeNames(by_stem=True)  # a label is found by its image's name without suffix
        number = {category["id"]: i for i, category in enumerate(content["categories"])}
        for index, image, rows in _by_image(content):
            name = _copied(dataset, index, root / "images" / part, free)
            path = (root / "labels" / part / name).with_suffix(".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (image["height"], image["width"])
            objects = _objects(rows, lost)
            path.write_text("".join(_yolo_line(number[row["category_id"]], row, size) for row in objects))
    described["names"] = dict(enumerate(next(iter(datasets.values())).class_names))
    (root / "data.yaml").write_text(
        "".join(f"{key}: {json.dumps(value)}\n" for key, value in described.items() if key != "names")
        + "names:\n"
        + "".join(f"  {i}: {json.dumps(name)}\n" for i, name in described["names"].items())
    )


def _yolo_line(number: int, row: Mapping[str, Any], size: tuple[int, int]) -> str:
    height, width = size
    if row.get("segmentation"):
        points = np.reshape(one_polygon(row["segmentation"], size), (-1, 2)) / (width, height)
        values = points.clip(0, 1).reshape(-1).tolist()
    else:
        x, y, w, h = row["bbox"]
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    return " ".join([str(number), *(f"{value:.8g}" for value in values)]) + "\n"


def _write_voc(datasets: Mapping[str, TableDataset], root: Path, lost: dict[str, int]) -> None:
    (root / "Annotations").mkdir()
    (root / "ImageSets/Main").mkdir(parents=True)
    names = next(iter(datasets.values())).class_names
    (root / "class_names.txt").write_text("".join(f"{name}\n" for name in ("__background__", *names)), encoding="utf-8")
    free = FreeNames(by_stem=True)
    for part, dataset in datasets.items():
        content = dataset.coco()
        label = {category["id"]: category["name"] for category in content["categories"]}
        stems = []
        for index, image, rows in _by_image(content):
            name = _copied(dataset, index, root / "JPEGImages", free, image["file_name"].replace("/", "__"))
            stem = PurePosixPath(name).stem
            stems.append(stem)
            objects = _objects(rows, lost)
            size = (image["height"], image["width"])
            if any(row.get("segmentation") for row in objects):
                objects = _voc_masks(root, stem, objects, content["categories"], size, lost)
            text = "".join(_voc_object(escape(label[row["category_id"]]), row["bbox"]) for row in objects)
            values = {"name": escape(name), "width": size[1], "height": size[0], "objects": text}
            (root / f"Annotations/{stem}.xml").write_text(XML.format(**values), encoding="utf-8")
        (root / f"ImageSets/Main/{part}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")


def _voc_object(label: str, box: list[float]) -> str:
    x, y, width, height = box
    return OBJECT.format(label=label, x1=x + 1, y1=y + 1, x2=x + width, y2=y + height)


def _voc_masks(
    root: Path, stem: str, objects: list[Any], categories: list[Any], size: tuple[int, int], lost: dict[str, int]
) -> list[Any]:
    """Writes the masks of an image; small objects lie over large ones. A pixel belongs to one object only."""
    number = {category["id"]: i for i, category in enumerate(categories, 1)}
    deep = len(objects) > 254 or len(categories) > 254
    ids, classes = (np.zeros(size, np.uint16 if deep else np.uint8) for _ in range(2))
    masks = [_bitmap(row, size) for row in objects]
    for i in sorted(range(len(objects)), key=lambda i: -int(masks[i].sum())):
        _count(lost, "pixels of masks that lie under others", int((ids[masks[i]] > 0).sum()))
        ids[masks[i]], classes[masks[i]] = i + 1, number[objects[i]["category_id"]]
    for folder, values in (("SegmentationObject", ids), ("SegmentationClass", classes)):
        (root / folder).mkdir(exist_ok=True)
        image = Image.fromarray(values)
        if not deep:
            image.putpalette(_palette())
        image.save(root / folder / f"{stem}.png")
    return objects


def _bitmap(row: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    mask = row.get("segmentation")
    if isinstance(mask, list):
        mask = coco_mask.merge(coco_mask.frPyObjects(mask, *size))
    return coco_mask.decode(mask).astype(bool) if mask else np.zeros(size, bool)


def _palette() -> list[int]:
    """VOC's colours: the bits of an index go round red, green and blue, the lowest first, into their highest bits."""
    return [
        sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(8))
        for index in range(256)
        for channel in range(3)
    ]


def _objects(rows: list[dict[str, Any]], lost: dict[str, int]) -> list[dict[str, Any]]:
    """The rows that are no crowds, which YOLO and VOC do not know."""
    _count(lost, "crowds left out", sum(row["iscrowd"] for row in rows))
    _count(lost, "objects' keypoints left out", sum("keypoints" in row for row in rows))
    return [row for row in rows if not row["iscrowd"]]


def _count(lost: dict[str, int], words: str, number: int) -> None:
    if number:
        lost[words] = lost.get(words, 0) + number


WRITERS: dict[str, Callable[[Mapping[str, TableDataset], Path, dict[str, int]], None]] = {
    "coco": _write_coco,
    "yolo": _write_yolo,
    "voc": _write_voc,
}
