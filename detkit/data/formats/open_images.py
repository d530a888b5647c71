"""OpenImagesDataset: the CSV files of Open Images."""

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, image_size
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.formats.parts import grouped, part_of, purpose, purpose_of_folder
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError
from detkit.utils.words import amount

EDGES = ("XMin", "XMax", "YMin", "YMax")
CODES = re.compile(r"(LabelName,.*\s+)?/[a-z]/\w+,(?!/)")
"""How a file of codes and names begins."""


@DATASETS.register()
class OpenImagesDataset(FormatDataset):
    """Open Images (Kuznetsova et al. 2020, V4 to V7): CSV files of boxes, masks and class descriptions.

    Masks belong to the box of the same edges and are brought to the image's size. ``IsGroupOf`` is a crowd. The files
    may speak of more images than are there, of which somebody took a few: that is said. Options are those of
    ``FormatDataset``.
    """

    key = "open_images"
    format = "Open Images"

    @classmethod
    def files(cls, folder: Folder) -> list[str]:
        return _files(folder, "XMin")

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        return grouped(cls.files(folder), _part)

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        names, notes = dict(_descriptions(folder)), list[str]()
        images = [image for part, files in parts.items() for image in _images(folder, part, files, names, notes)]
        if notes and not any(image.objects for image in images):
            raise DataError(notes[0])
        return Content.of_images(folder, images, list(names.values()) or None, notes)


def _files(folder: Folder, column: str) -> list[str]:
    """The CSV files of images with such a column, whatever their names."""
    files = folder.candidates("*.csv") if column == "XMin" else folder.glob("*.csv")
    first = ((name, folder.head(name).partition("\n")[0]) for name in files)
    return [name for name, line in first if all(re.search(rf"\b{word}\b", line) for word in ("ImageID", column))]


def _part(name: str) -> str:
    return part_of(PurePosixPath(name).name) or part_of(name, own_name=False)


def _descriptions(folder: Folder) -> Iterator[tuple[str, str]]:
    """``(code, name)`` of the classes; older files have no line of titles."""
    files = (name for name in folder.glob("*.csv") if "class" in PurePosixPath(name).name)
    for file in [name for name in files if CODES.match(folder.head(name))][:1]:
        try:
            for row in csv.reader(io.StringIO(folder.text(file), newline="")):
                if len(row) >= 2 and row[0] != "LabelName":
                    yield row[0], row[1]
        except csv.Error as error:
            raise DataError(f"{folder.path / file}: is not CSV ({error})") from None


def _rows(folder: Folder, name: str, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str] | None]]:
    """The rows of a file and their places; None for one of an image that is not there. Of millions few may be."""
    place, stems = folder.path / name, {PurePosixPath(image).stem for image in folder.images}
    try:
        with open(place, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            titles = next(reader, [])
            if missing := [key for key in needed if key not in titles]:
                raise DataError(f"{place}, line 1: has no column {missing[0]}")
            image = titles.index("ImageID")
            for row in reader:
                origin = f"{place}, line {reader.line_num}"
                if row and len(row) != len(titles):
                    raise DataError(f"{origin}: has {len(row)} values; expected {len(titles)}, as line 1 has")
                yield origin, dict(zip(titles, row)) if row and row[image] in stems else None
    except UnicodeDecodeError:
        raise DataError(f"{place}: is not text in UTF-8; save it as that") from None
    except (csv.Error, OSError) as error:
        raise DataError(f"{place}: is not CSV ({error})") from None


def _images(
    folder: Folder, part: str, files: Sequence[str], names: Mapping[str, str], notes: list[str]
) -> Iterator[LabelledImage]:
    """The images of a part: those that its files speak of, and others in its folders, which are without objects."""
    boxes: dict[str, list[tuple[str, dict[str, str]]]] = {}
    absent, first = 0, ""
    for origin, row in (row for file in files for row in _rows(folder, file, ("ImageID", "LabelName", *EDGES))):
        if row is None:
            absent, first = absent + 1, first or origin
        else:
            boxes.setdefault(row["ImageID"], []).append((origin, row))
    if absent:
        notes.append(f"{first}: there is no image of this ImageID; {amount(absent, 'such row')} left out")
    masks: dict[tuple[str, ...], str] = {}
    for file in (name for name in _files(folder, "MaskPath") if _part(name) == part):
        for _, row in _rows(folder, file, ("MaskPath", "ImageID", "LabelName", *(f"Box{edge}" for edge in EDGES))):
            if row is not None:
                masks[_key(row, "Box")] = row["MaskPath"]
    own = {_key(row) for rows in boxes.values() for _, row in rows}
    if others := [path for key, path in masks.items() if key not in own]:
        notes.append(f"{amount(len(others), 'mask')} left out, such as {others[0]}: no box has the edges of its row")
    are_masks = {PurePosixPath(path).name for path in masks.values()}
    inside = [
        image
        for image in (folder.images if purpose(part) else ())
        if purpose_of_folder(os.path.dirname(image)) == purpose(part)
        and "masks" not in image.split("/")
        and PurePosixPath(image).name not in are_masks
    ]
    for path in dict.fromkeys([*inside, *filter(None, map(folder.image_of_stem, boxes))]):
        size = image_size(folder, path)
        rows = boxes.get(PurePosixPath(path).stem, [])
        yield LabelledImage(path, [_object(folder, origin, row, names, masks, size) for origin, row in rows], size)


def _key(row: Mapping[str, str], prefix: str = "") -> tuple[str, ...]:
    """What a row of a box, and that of its mask, whose edges have a prefix, have in common."""
    start = (row["ImageID"], row["LabelName"])
    try:
        return (*start, *(f"{float(row[f'{prefix}{edge}']):.5f}" for edge in EDGES))
    except ValueError:
        return start


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
    file = masks.get(_key(row))
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
