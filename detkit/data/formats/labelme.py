"""LabelMeDataset: one JSON an image, as LabelMe writes it."""

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, image_size, lines_of, listed_first
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder, embedded_image
from detkit.data.formats.parts import by_part
from detkit.data.formats.shapes import CORNERS, covered, drawn, ellipse, extent, numbers, placed, points
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError

POLYGONS = ("polygon", "quadrilateral")
RECTANGLES = ("rectangle", "rotation", "oriented_rectangle")
"""Also turned ones, of which the enclosing box is taken."""
IGNORED = ("point", "points", "line", "linestrip", "cuboid")
"""Shapes without area in the image, which are no objects."""


@DATASETS.register()
class LabelMeDataset(FormatDataset):
    """LabelMe's JSON files (Wada 2016, version 3 to 5): polygons, rectangles, circles and masks.

    Shapes of one ``group_id`` and label are one object. An image that exists only inside its JSON is read from there.
    Classes are those of ``labels.txt``, and then other labels, sorted. Options are those of ``FormatDataset``.
    """

    key = "labelme"
    format = "LabelMe"

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        names = folder.candidates("*.json")
        likely = sorted(names, key=lambda name: folder.image_of_stem(PurePosixPath(name).stem) is None)
        for name in likely[:3]:
            text = folder.ends(name)  # the shapes may stand before the embedded image or behind it
            if '"shapes"' in text and re.search('"image(Path|Data|Height)"', text):
                return f"{len(names)} JSON files"
        return None

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        return by_part(folder.candidates("*.json"), own_name=False)

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        embedded: dict[str, str] = {}
        found = (_image(folder, name, embedded) for names in parts.values() for name in names)
        images = [image for image in found if image]
        listed = [line for name in folder.glob("labels.txt")[:1] for _, line in lines_of(folder.text(name))]
        listed = [name for name in listed if name not in ("__ignore__", "_background_")]
        content = Content.of_images(folder, images, listed_first(listed, images))
        return dataclasses.replace(content, embedded=embedded)


def _image(folder: Folder, name: str, embedded: dict[str, str]) -> LabelledImage | None:
    content, place = folder.json(name), str(folder.path / name)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return None
    near, written = str(PurePosixPath(name).parent), str(content.get("imagePath"))
    size_of_file, image = None, ""
    with contextlib.suppress(DataError):
        image = folder.image(written, near, name)
    if not image and content.get("imageData"):
        image = str(PurePosixPath(near, PurePosixPath(written.replace("\\", "/")).name))
        embedded[image] = name
        size_of_file = embedded_image(content["imageData"], place).shape[:2]
    # an image that was converted since has another suffix
    stem = PurePosixPath(written.replace("\\", "/")).stem
    image = image or folder.image_of_stem(stem, beside=name) or folder.expected_image(written, near, name)
    if image not in folder.images and image not in embedded:
        return LabelledImage(image, ())
    given = (content.get("imageHeight"), content.get("imageWidth"))
    size = given if all(isinstance(side, int) and side > 0 for side in given) else size_of_file
    size = size or image_size(folder, image)
    groups: dict[Any, list[tuple[dict[str, Any], str]]] = {}
    for number, shape in enumerate(content["shapes"], 1):
        origin = f"{place}, shape {number}"
        if isinstance(shape, dict) and type(shape.get("label")) is int:  # of a class that was converted by its number
            shape = {**shape, "label": str(shape["label"])}
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise DataError(f"{origin}: has no label; expected a mapping with label, shape_type and points")
        if (shape.get("shape_type") or "polygon") not in IGNORED:
            group = shape.get("group_id")
            key = number if group is None else (str(group), shape["label"])
            groups.setdefault(key, []).append((shape, origin))
    objects = [_object(shapes, size) for shapes in groups.values()]
    return LabelledImage(image, objects, size, ignored=len(content["shapes"]) - sum(map(len, groups.values())))


def _object(shapes: list[tuple[dict[str, Any], str]], size: tuple[int, int]) -> LabelledObject:
    label, origin = shapes[0][0]["label"], shapes[0][1]
    polygons, boxes, circles, masks = [], [], [], []
    for shape, place in shapes:
        kind, given = shape.get("shape_type") or "polygon", shape.get("points")
        if kind in POLYGONS:
            polygons.append(points(given, place))
        elif kind in RECTANGLES:  # two corners opposite each other, or all four
            boxes.append(extent(points(given, place, 2)))
        elif kind == "circle":
            centre, rim = numbers(given, place, "points", 4).reshape(2, 2)
            box, outline = ellipse(centre.tolist(), [float(np.hypot(*(rim - centre)))] * 2)
            polygons.append(outline)
            circles.append(box)
        elif kind == "mask":
            corner = numbers(given, place, "points", 4).reshape(2, 2).min(0).round().astype(int)
            patch = drawn(embedded_image(str(shape.get("mask")), place))
            masks.append(placed(patch, int(corner[0]), int(corner[1]), size, place))
        else:
            raise DataError(f"{place}: the shape_type is {kind!r}; expected polygon, rectangle, circle or mask")
    rectangles = [[x1, y1, x2, y1, x2, y2, x1, y2] for x1, y1, x2, y2 in boxes]
    if masks:
        masks += [covered([*polygons, *rectangles], size, origin)] if polygons or rectangles else []
        return LabelledObject(label, None, np.logical_or.reduce(masks), origin)
    outlines = polygons if not circles else [p for p in polygons if len(p) != 2 * CORNERS]
    whole = extent(np.concatenate([*outlines, *boxes, *circles]))
    if not polygons and len(boxes) == 1:
        return LabelledObject(label, whole, None, origin)
    return LabelledObject(label, whole, [*polygons, *rectangles], origin)
