"""CvatDataset: the XML of CVAT ("CVAT for images 1.1" and "for video 1.1"), of a task or a project."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from detkit.data.formats.content import Content, LabelledImage, LabelledObject
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.formats.shapes import ellipse, extent, numbers, placed, points, rectangle, rows_of_runs, turned
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError

IGNORED = ("points", "polyline", "skeleton", "tag", "cuboid")
"""Shapes that are no objects."""


@DATASETS.register()
class CvatDataset(FormatDataset):
    """CVAT's XML: boxes (also turned ones), polygons, ellipses and brush masks; in videos those of each frame.

    Classes are those of ``<labels>`` in their order, parts the subsets of a project. Of a turned box the enclosing box
    is taken. Options are those of ``FormatDataset``.
    """

    key = "cvat"
    format = "CVAT XML"

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        name = _file(folder)
        return name and f"{name}"

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        root = folder.xml(_file(folder) or "")
        out: dict[str, list[Element]] = {}
        for image in root.findall("image") or _frames(folder, root):
            out.setdefault(image.get("subset") or "", []).append(image)
        return out or {"": []}

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        name = _file(folder) or ""
        place = str(folder.path / name)
        listed = [
            (label.findtext("name") or "").strip()
            for label in folder.xml(name).iter("label")
            if label.find("parent") is None
        ]
        turned_boxes: list[str] = []
        images = (_image(folder, e, part, place, turned_boxes) for part, found in parts.items() for e in found)
        content = Content.of_images(folder, images, listed or None)
        if turned_boxes:
            content.notes = [f"{len(turned_boxes)} turned boxes are taken as the boxes around them"]
        return content


def _file(folder: Folder) -> str | None:
    for name in folder.candidates("*.xml"):
        if "<annotations" in folder.head(name) and ("<image" in (text := folder.text(name)) or "<track" in text):
            return name
    return None


def _frames(folder: Folder, root: Element) -> list[Element]:
    """The frames of a video as images, each with the shapes of the tracks that are in it.

    A frame's file is named ``frame_000007``, or is the image of that number of all.
    """
    sides = {side: root.findtext(f"meta//original_size/{side}") or "" for side in ("width", "height")}
    out: dict[int, Element] = {}
    for number, name in enumerate(folder.images):
        found = re.fullmatch(r"frame_(\d+)", PurePosixPath(name).stem)
        number = int(found[1]) if found else number
        out[number] = Element("image", {"id": str(number), "name": name, **sides})
    for track in root.findall("track"):
        for shape in track:
            if shape.get("outside") != "1":
                frame = shape.get("frame") or ""
                if not frame.isdecimal() or int(frame) not in out:
                    what = f"there is no image of its frame {frame}, 'frame_{frame:0>6}'; export the images too"
                    raise DataError(f"{folder.path}, track {track.get('id')}: {what}")
                shape.set("label", track.get("label") or "")
                out[int(frame)].append(shape)
    return list(out.values())


def _image(folder: Folder, entry: Element, part: str, place: str, turned_boxes: list[str]) -> LabelledImage:
    name, label = entry.get("name") or "", f"{place}, image {entry.get('id')}"
    try:
        size = (int(entry.get("height") or ""), int(entry.get("width") or ""))
        id_ = int(entry.get("id") or "")
    except ValueError:
        raise DataError(f"{label}: its id, width or height is no whole number") from None
    near = next((f for f in (f"images/{part}", part, "images") if f"{f}/{name}" in folder.images), "")
    objects = list(_objects(entry, label, size, turned_boxes))
    return LabelledImage(folder.image(name, near, label), objects, size, id_)


def _objects(entry: Element, place: str, size: tuple[int, int], turned_boxes: list[str]) -> Iterator[LabelledObject]:
    for number, shape in enumerate(entry, 1):
        if shape.tag in IGNORED or shape.get("label") is None:
            continue
        origin, label = f"{place}, shape {number} ({shape.tag})", shape.get("label") or ""
        degrees = float(numbers([shape.get("rotation") or 0], origin, "the rotation", 1)[0])
        if shape.tag == "box":
            box = _values(shape, ("xtl", "ytl", "xbr", "ybr"), origin)
            if degrees:
                turned_boxes.append(origin)
                corners = rectangle(box)
                box = extent(turned(corners, degrees, corners.mean(0)))
            yield LabelledObject(label, box, None, origin)
        elif shape.tag == "polygon":
            pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";")]
            yield LabelledObject(label, None, [points(pairs, origin)], origin)
        elif shape.tag == "ellipse":
            x, y, rx, ry = _values(shape, ("cx", "cy", "rx", "ry"), origin)
            box, outline = ellipse((x, y), (rx, ry), degrees)
            yield LabelledObject(label, box, [outline], origin)
        elif shape.tag == "mask":
            runs = numbers((shape.get("rle") or "").split(","), origin, "rle")
            left, top, width, height = map(int, _values(shape, ("left", "top", "width", "height"), origin))
            yield LabelledObject(
                label, None, placed(rows_of_runs(runs, height, width, origin), left, top, size, origin), origin
            )
        else:
            raise DataError(f"{origin}: expected box, polygon, ellipse or mask")


def _values(shape: Element, keys: tuple[str, ...], origin: str) -> list[float]:
    return numbers([shape.get(key) for key in keys], origin, ", ".join(keys), len(keys)).tolist()
