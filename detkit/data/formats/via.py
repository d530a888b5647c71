"""ViaDataset: the JSON of the VGG Image Annotator."""

import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from detkit.data.formats.content import Content, LabelledImage, LabelledObject
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.formats.shapes import ellipse, numbers, points
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError


@DATASETS.register()
class ViaDataset(FormatDataset):
    """VIA's JSON (Dutta and Zisserman 2019, versions 1 and 2; matterport's balloons): polygons, boxes, circles.

    The class of a region is its attribute of the names below, or its only one; regions without attributes are of one
    class, ``object``. Classes are the labels, sorted. Options are those of ``FormatDataset``.
    """

    key = "via"
    format = "VIA"

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        names = _files(folder)
        return f"{', '.join(names[:3])}" if names else None

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        out: dict[str, list[str]] = {}
        for name in _files(folder):
            parent = PurePosixPath(name).parent.name
            out.setdefault(parent, []).append(name)
        return out

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        images = [image for names in parts.values() for name in names for image in _images(folder, name)]
        return Content.of_images(folder, images, None)


CLASS_ATTRIBUTES = ("class", "label", "name", "type", "category")
"""Attributes of a region that mostly hold its class."""


def _files(folder: Folder) -> list[str]:
    return [
        name
        for name in folder.candidates("*.json")
        if '"regions"' in folder.head(name) and '"filename"' in folder.head(name)
    ]


def _images(folder: Folder, name: str) -> list[LabelledImage]:
    content, place = folder.json(name), str(folder.path / name)
    content = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        raise DataError(f"{place}: expected a mapping of images, as VIA writes it")
    near = PurePosixPath(name).parent.as_posix()
    out = []
    for entry in content.values():
        if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
            raise DataError(f"{place}: {str(entry)[:60]!r} has no filename")
        regions, at = entry.get("regions") or [], f"{place}, {entry['filename']}"
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        image = folder.image(entry["filename"], "" if near == "." else near, name)
        objects = [o for number, region in enumerate(regions, 1) if (o := _object(region, f"{at}, region {number}"))]
        out.append(LabelledImage(image, objects))
    return out


def _object(region: Any, origin: str) -> LabelledObject | None:
    shape: Any = region.get("shape_attributes") if isinstance(region, dict) else None
    if not isinstance(shape, dict):
        raise DataError(f"{origin}: has no shape_attributes")
    kind, given = shape.get("name"), region.get("region_attributes") or {}
    if kind in ("point", "polyline"):
        return None
    attributes = {k: v for k, v in given.items() if isinstance(v, str) and v}
    label = next((attributes[k] for k in CLASS_ATTRIBUTES if k in attributes), None)
    label = label or next(iter(attributes.values()), "object")

    def values(*keys: str) -> list[float]:
        return numbers([shape.get(key) for key in keys], origin, ", ".join(keys), len(keys)).tolist()

    if kind == "polygon":
        x, y = shape.get("all_points_x") or [], shape.get("all_points_y") or []
        if len(x) != len(y):
            raise DataError(f"{origin}: has {len(x)} values of x and {len(y)} of y")
        return LabelledObject(label, None, [points(list(zip(x, y)), origin)], origin)
    if kind == "rect":
        left, top, width, height = values("x", "y", "width", "height")
        return LabelledObject(label, (left, top, left + width, top + height), None, origin)
    if kind in ("circle", "ellipse"):
        cx, cy, rx, ry = values("cx", "cy", *(("r", "r") if kind == "circle" else ("rx", "ry")))
        box, outline = ellipse((cx, cy), (rx, ry), math.degrees(values("theta")[0] if "theta" in shape else 0))
        return LabelledObject(label, box, [outline], origin)
    raise DataError(f"{origin}: the shape is {kind!r}; expected polygon, rect, circle or ellipse")
