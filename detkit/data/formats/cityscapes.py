"""CityscapesDataset: the instance ids of Cityscapes."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, values_of
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError

CLASSES = {24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
"""Label id -> name of the classes with instances."""
IDS = re.compile(r"(.+)_gt(?:Fine|Coarse)_instanceIds\.png")


@DATASETS.register()
class CityscapesDataset(FormatDataset):
    """Cityscapes (Cordts et al. 2016): ``leftImg8bit`` and ``gtFine`` (or ``gtCoarse``) with ``*_instanceIds.png``.

    A value of 1000 and more is label id x 1000 + number; a lower one of a class with instances is a group: a crowd.
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
        images = (_image(folder, name) for names in parts.values() for name in names)
        return Content.of_images(folder, images, list(CLASSES.values()))


def _image(folder: Folder, name: str) -> LabelledImage:
    ids, place = folder.mask(name), str(folder.path / name)
    if ids.ndim != 2:
        raise DataError(f"{place}: has {ids.shape[2]} channels; expected one, of 16 bits")
    path = PurePosixPath(name)
    stem = found[1] if (found := IDS.fullmatch(path.name)) else path.stem
    near = f"leftImg8bit/{path.parent.parent.name}/{path.parent.name}"
    return LabelledImage(folder.image(f"{stem}_leftImg8bit.png", near, name), list(_objects(ids, place)), ids.shape)


def _objects(ids: np.ndarray, place: str) -> Iterator[LabelledObject]:
    for value in values_of(ids, place):
        label = value // 1000 if value >= 1000 else value
        if label in CLASSES:
            yield LabelledObject(CLASSES[label], None, ids == value, f"{place}, id {value}", crowd=value < 1000)
