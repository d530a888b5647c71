"""OpenImagesDataset: the CSV files of Open Images."""

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, image_size
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.formats.parts import part_of
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError

EDGES = ("XMin", "XMax", "YMin", "YMax")


@DATASETS.register()
class OpenImagesDataset(FormatDataset):
    """Open Images (Kuznetsova et al. 2020, V4 to V7): CSV files of boxes, masks and class descriptions.

    Masks belong to the box of the same edges and are brought to the image's size. ``IsGroupOf`` is a crowd. Options are
    those of ``FormatDataset``.
    """

    key = "open_images"
    format = "Open Images"

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        return ", ".join(_files(folder)) or None

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        return {part_of(PurePosixPath(name).name): name for name in _files(folder)}

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        names = dict(_descriptions(folder))
        images = (image for part, name in parts.items() for image in _images(folder, part, name, names))
        return Content.of_images(folder, images, list(names.values()) or None)


def _files(folder: Folder) -> list[str]:
    """The CSV files of boxes, whatever their names."""
    first = ((name, folder.head(name).partition("\n")[0]) for name in folder.candidates("*.csv"))
    return [name for name, line in first if all(re.search(rf"\b{word}\b", line) for word in ("ImageID", "XMin"))]


def _descriptions(folder: Folder) -> Iterator[tuple[str, str]]:
    """``(code, name)`` of the classes; older files have no line of titles."""
    for file in folder.glob("*class-descriptions*.csv")[:1]:
        try:
            for row in csv.reader(folder.text(file).splitlines()):
                if len(row) >= 2 and row[0] != "LabelName":
                    yield row[0], row[1]
        except csv.Error as error:
            raise DataError(f"{folder.path / file}: is not CSV ({error})") from None


def _rows(folder: Folder, name: str, needed: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        reader = csv.DictReader(folder.text(name).splitlines(), strict=True)
        missing = [key for key in needed if key not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{folder.path / name}, line 1: has no column {missing[0]}")
        for row in reader:
            yield f"{folder.path / name}, line {reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{folder.path / name}: is not CSV ({error})") from None


def _images(folder: Folder, part: str, name: str, names: Mapping[str, str]) -> Iterator[LabelledImage]:
    boxes: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for origin, row in _rows(folder, name, ("ImageID", "LabelName", *EDGES)):
        boxes.setdefault(row["ImageID"], []).append((origin, row))
    masks: dict[tuple[str, ...], str] = {}
    for file in folder.glob(f"*{part}-annotations-object-segmentation.csv"):
        for _, row in _rows(folder, file, ("MaskPath", "ImageID", "LabelName", *(f"Box{edge}" for edge in EDGES))):
            key = (row["ImageID"], row["LabelName"], *(row[f"Box{edge}"] for edge in EDGES))
            masks[_key(*key)] = row["MaskPath"]
    inside = [
        image
        for image in folder.images
        if part and part in PurePosixPath(image).parts and "masks" not in PurePosixPath(image).parts
    ]
    for stem in boxes:
        if folder.image_of_stem(stem) is None:
            raise DataError(f"{boxes[stem][0][0]}: there is no image '{stem}'")
    paths = inside or [path for stem in boxes if (path := folder.image_of_stem(stem))]
    for path in paths:
        size = image_size(folder, path)
        rows = boxes.get(PurePosixPath(path).stem, [])
        yield LabelledImage(path, [_object(folder, origin, row, names, masks, size) for origin, row in rows], size)


def _key(image: str, label: str, *edges: str) -> tuple[str, ...]:
    try:
        return (image, label, *(f"{float(edge):.5f}" for edge in edges))
    except (TypeError, ValueError):
        return (image, label)


def _object(
    folder: Folder,
    origin: str,
    row: dict[str, str],
    names: Mapping[str, str],
    masks: Mapping[tuple[str, ...], str],
    size: tuple[int, int],
) -> LabelledObject:
    try:
        x1, x2, y1, y2 = (float(row[edge]) for edge in EDGES)
    except (TypeError, ValueError):
        raise DataError(f"{origin}: XMin, XMax, YMin or YMax is no number") from None
    if not (0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1):
        raise DataError(f"{origin}: XMin {x1}, XMax {x2}, YMin {y1}, YMax {y2}; expected parts of the image, rising")
    code = row["LabelName"]
    if names and code not in names:
        raise DataError(f"{origin}: the class {code} is not in the class descriptions")
    mask = None
    file = masks.get(_key(row["ImageID"], code, *(row[edge] for edge in EDGES)))
    if file is not None:
        mask = _mask(folder, folder.image(file, origin=origin), size)
    height, width = size
    box = (x1 * width, y1 * height, x2 * width, y2 * height)
    group = (row.get("IsGroupOf") or "0").strip().lower()
    if group not in ("0", "1", "-1", "false", "true"):
        raise DataError(f"{origin}: IsGroupOf is '{group[:40]}'; expected 0, 1, false, true, or -1 for unknown")
    return LabelledObject(names.get(code, code), box, mask, origin, crowd=group in ("1", "true"))


def _mask(folder: Folder, name: str, size: tuple[int, int]) -> np.ndarray:
    values = folder.mask(name)
    on = values.reshape(*values.shape[:2], -1).max(2) > 0
    if on.shape != size:
        on = np.array(Image.fromarray(on).resize(size[::-1], Image.Resampling.NEAREST))
    return on
