"""CityscapesDataset: the instance ids of Cityscapes."""

import itertools
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, lines_of, values_of
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.formats.parts import grouped
from detkit.data.formats.segment_files import LabelledSegment, SegmentFile
from detkit.data.formats.shapes import mask_size, points
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError

CLASSES = {24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
"""Label id -> name of the classes with instances."""
STUFF = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
}
"""Label id -> name of the other classes that are evaluated; what is of neither is unknown."""
TOP = re.compile(r"gt(Fine|Coarse)")
FILES = ("*_instanceIds.png", "*_polygons.json")
STEM = re.compile(r"(.+)_gt(?:Fine|Coarse)_(?:instanceIds\.png|polygons\.json)")


@DATASETS.register()
class CityscapesDataset(FormatDataset):
    """Cityscapes (Cordts et al. 2016): ``leftImg8bit`` and ``gtFine`` (or ``gtCoarse``) with ``*_instanceIds.png``.

    A value of 1000 and more is label id x 1000 + number; a lower one of a class with instances is a group: a crowd.
    Records have a semantic map of all things together and of the eleven classes without instances that are evaluated.
    Where there are no such files, the outlines of ``*_polygons.json`` are drawn one over the other, and there are no
    maps.
    Other classes than those of Cityscapes are in a ``label_colors.txt`` (CVAT): a colour and a name a line, numbered in
    their order, black ones no classes. Options are those of ``FormatDataset``.
    """

    key = "cityscapes"
    format = "Cityscapes"

    @classmethod
    def files(cls, folder: Folder) -> list[str]:
        return next(filter(None, map(folder.glob, FILES)), [])

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        found = cls.files(folder)
        return f"{len(found)} files *_{found[0].rpartition('_')[2]}" if found else None

    @classmethod
    def hint(cls, folder: Folder) -> str:
        found = folder.glob("*_labelIds.png")
        return f"{found[0]} tells no objects apart; *_instanceIds.png do. " if found else ""

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        return grouped(cls.files(folder), _part)

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        segments = dict[str, SegmentFile]()
        things, stuff = _classes(folder)
        images = (_image(folder, name, things, stuff, segments) for names in parts.values() for name in names)
        content = Content.of_images(folder, images, list(things.values()))
        if stuff and segments:
            content.segments, content.stuff = segments, dict(enumerate(stuff.values(), len(things) + 1))
        return content


def _part(name: str) -> str:
    """The folder below ``gtFine``, or the one above that of the city."""
    above = PurePosixPath(name).parent
    below = (part for top, part in itertools.pairwise(above.parts) if TOP.fullmatch(top))
    return next(below, above.parent.name)


def _classes(folder: Folder) -> tuple[Mapping[int, str], Mapping[int, str]]:
    """Label id -> name of the classes with instances, and of those without."""
    for file in folder.glob("label_colors.txt")[:1]:
        lines = [line.split(maxsplit=3) for _, line in lines_of(folder.text(file)) if line[0] != "#"]
        black = ["0", "0", "0"]
        if not any(line[:3] == black for line in lines):
            lines.insert(0, [*black, "background"])  # it has number 0, though its line may be left out
        own = {number: line[-1] for number, line in enumerate(lines) if line[:3] != black}
        if own.get(24) != CLASSES[24]:
            return own, {}
    return CLASSES, STUFF


def _image(
    folder: Folder,
    name: str,
    things: Mapping[int, str],
    stuff: Mapping[int, str],
    segments: dict[str, SegmentFile],
) -> LabelledImage:
    place, is_map = str(folder.path / name), name.endswith(".png")
    ids = folder.mask(name) if is_map else _drawn(folder, name, {label: id_ for id_, label in things.items()})
    if ids.ndim != 2:
        raise DataError(f"{place}: has {ids.shape[2]} channels; expected one, of 16 bits")
    path = PurePosixPath(name)
    stem = found[1] if (found := STEM.fullmatch(path.name)) else path.stem
    image = folder.image_of_stem(f"{stem}_leftImg8bit", beside=name)
    if image is None:
        raise DataError(f"{place}: there is no image '{stem}_leftImg8bit'")
    labels = {value: value // 1000 if value >= 1000 else value for value in values_of(ids, place)}
    kept = [
        LabelledSegment(value, things.get(label, "") or stuff[label], label in things, label in things and value < 1000)
        for value, label in labels.items()
        if label in things or label in stuff
    ]
    if is_map:
        segments[image] = SegmentFile(name, kept)
    objects = [
        LabelledObject(s.label, None, ids == s.id, f"{place}, id {s.id}", crowd=s.crowd) for s in kept if s.is_thing
    ]
    return LabelledImage(image, objects, ids.shape)


def _drawn(folder: Folder, name: str, numbers: Mapping[str, int]) -> np.ndarray:
    """``(H, W)`` ids of the outlines in a file, as ``*_instanceIds.png`` has them; what is no thing covers with 0."""
    content, place = folder.json(name), str(folder.path / name)
    try:
        height, width = mask_size(content["imgHeight"], content["imgWidth"], place)
        entries = [(str(entry["label"]), entry["polygon"]) for entry in content["objects"] if not entry.get("deleted")]
    except (KeyError, TypeError, AttributeError):
        raise DataError(f"{place}: expected imgHeight, imgWidth and objects, each with label and polygon") from None
    ids, counts = Image.new("I", (width, height)), dict.fromkeys(numbers, 0)
    draw = ImageDraw.Draw(ids)
    for number, (label, outline) in enumerate(entries, 1):
        group = label.removesuffix("group") if label not in numbers else ""
        id_ = numbers.get(group, 0)
        if label in numbers:
            id_, counts[label] = numbers[label] * 1000 + counts[label], counts[label] + 1
        draw.polygon(points(outline, f"{place}, object {number}"), fill=id_)
    return np.array(ids)
