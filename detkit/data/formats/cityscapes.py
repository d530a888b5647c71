"""CityscapesDataset: the instance ids of Cityscapes."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, values_of
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.formats.segment_files import LabelledSegment, SegmentFile
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
IDS = re.compile(r"(.+)_gt(?:Fine|Coarse)_instanceIds\.png")


@DATASETS.register()
class CityscapesDataset(FormatDataset):
    """Cityscapes (Cordts et al. 2016): ``leftImg8bit`` and ``gtFine`` (or ``gtCoarse``) with ``*_instanceIds.png``.

    A value of 1000 and more is label id x 1000 + number; a lower one of a class with instances is a group: a crowd.
    Records have a semantic map of all things together and of the eleven classes without instances that are evaluated.
    Options are those of ``FormatDataset``.
    """

    key = "cityscapes"
    format = "Cityscapes"

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        found = folder.glob("*_instanceIds.png")
        return f"{len(found)} files *_instanceIds.png" if found else None

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        out: dict[str, list[str]] = {}
        for name in folder.glob("*_instanceIds.png"):
            out.setdefault(PurePosixPath(name).parent.parent.name, []).append(name)
        return out

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        segments = dict[str, SegmentFile]()
        images = (_image(folder, name, segments) for names in parts.values() for name in names)
        content = Content.of_images(folder, images, list(CLASSES.values()))
        content.segments, content.stuff = segments, dict(enumerate(STUFF.values(), len(CLASSES) + 1))
        return content


def _image(folder: Folder, name: str, segments: dict[str, SegmentFile]) -> LabelledImage:
    ids, place = folder.mask(name), str(folder.path / name)
    if ids.ndim != 2:
        raise DataError(f"{place}: has {ids.shape[2]} channels; expected one, of 16 bits")
    path = PurePosixPath(name)
    stem = found[1] if (found := IDS.fullmatch(path.name)) else path.stem
    near = f"leftImg8bit/{path.parent.parent.name}/{path.parent.name}"
    image = folder.image(f"{stem}_leftImg8bit.png", near, name)
    segments[image] = SegmentFile(name, list(_segments(ids, place)))
    return LabelledImage(image, list(_objects(ids, place)), ids.shape)


def _segments(ids: np.ndarray, place: str) -> Iterator[LabelledSegment]:
    for value in values_of(ids, place):
        label = value // 1000 if value >= 1000 else value
        if label in CLASSES:
            yield LabelledSegment(value, CLASSES[label], True, crowd=value < 1000)
        elif label in STUFF:
            yield LabelledSegment(value, STUFF[label], False)


def _objects(ids: np.ndarray, place: str) -> Iterator[LabelledObject]:
    for value in values_of(ids, place):
        label = value // 1000 if value >= 1000 else value
        if label in CLASSES:
            yield LabelledObject(CLASSES[label], None, ids == value, f"{place}, id {value}", crowd=value < 1000)
