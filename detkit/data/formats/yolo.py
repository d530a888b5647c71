"""YoloDataset: text files of classes and relative coordinates, boxes and polygons, with any of their ways of paths."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, image_size, lines_of
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError

PARTS = ("train", "val", "valid", "validation", "test")
BEYOND = 0.01
"""How far a coordinate may lie outside of 0..1 (rounding) before it is a mistake."""


@DATASETS.register()
class YoloDataset(FormatDataset):
    """YOLO labels (Ultralytics, Darknet, Roboflow, CVAT, Label Studio): a text file an image, a row an object.

    A row is ``class cx cy width height`` or ``class x y x y ...``, in parts of the image; both may stand in one file.
    Class names are those of ``data.yaml`` (or another YAML with ``names``), ``obj.data`` or ``classes.txt``. An image
    without a label file, or with an empty one, is a background. Options are those of ``FormatDataset``.
    """

    key = "yolo"
    format = "YOLO"

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        described = _description(folder)
        if described is not None and (labels := sum(1 for _ in _label_files(folder, described))):
            return f"{labels} label files, described by {described}"
        return None

    @classmethod
    def locate(cls, folder: Folder) -> Folder:
        """The folder that the YAML means by ``path``, if that is there and not below this one."""
        name = folder.given if folder.given and folder.given.endswith((".yaml", ".yml")) else None
        base = Path(str(folder.yaml(name).get("path") or ".")).expanduser() if name else Path(".")
        where = (folder.path / base).resolve()
        if name and where.is_dir() and not where.is_relative_to(folder.path.resolve()):
            return Folder(where, str((folder.path / name).resolve()), folder.stored)
        return folder

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        name = _description(folder)
        entries: dict[str, Any] = {}
        if name and name.endswith((".yaml", ".yml")):
            entries = folder.yaml(name)
        elif name and name.endswith(".data"):
            entries = dict(_pair(line) for _, line in lines_of(folder.text(name)) if "=" in line)
        found = {part: _images(folder, entries, part, name) for part in PARTS if entries.get(part)}
        if not found:
            folders = {part: [i for i in folder.images if part in PurePosixPath(i).parts[:-1]] for part in PARTS}
            found = {part: images for part, images in folders.items() if images}
        return found or {"": list(folder.images)}

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        names = class_names(folder, _description(folder))
        images = (LabelledImage(path, *_labels(folder, path, names)) for paths in parts.values() for path in paths)
        return Content.of_images(folder, images, names)


def _description(folder: Folder) -> str | None:
    """The file that names the classes; None where there is none."""
    for name in folder.candidates("*.yaml", "*.yml"):
        if ("/" not in name or name == folder.given) and "names" in folder.yaml(name):
            return name
    for pattern in ("*.data", "classes.txt", "*.names"):
        for name in folder.candidates(pattern):
            if name.count("/") < 2 and any(_label_files(folder, name)):
                return name
    return None


def _label_files(folder: Folder, described: str) -> Iterator[str]:
    """The text files that lie where the labels of images lie."""
    return (label for image in folder.images if (label := _label_of(folder, image)) is not None)


def _label_of(folder: Folder, image: str) -> str | None:
    """The label file of an image: under ``labels`` where it is under ``images``, or beside it."""
    path = PurePosixPath(image)
    parts, stem = list(path.parts[:-1]), path.name[: -len(path.suffix)]
    for at in reversed([i for i, part in enumerate(parts) if part.lower() == "images"]):
        name = "/".join([*parts[:at], "labels", *parts[at + 1 :], f"{stem}.txt"])
        if name in folder.files:
            return name
    beside = "/".join([*parts, f"{stem}.txt"])
    return beside if beside in folder.files else None


def class_names(folder: Folder, described: str | None) -> list[str]:
    """The names of the classes in their order. Raises DataError for names that are none."""
    if described is None:
        raise DataError(f"{folder.path}: no file names the classes; write a data.yaml with names: [first, second]")
    if described.endswith((".yaml", ".yml")):
        names = folder.yaml(described)["names"]
        if isinstance(names, Mapping):
            try:
                names = [names[key] for key in sorted(names, key=int)]
            except (TypeError, ValueError):
                names = None
        if not isinstance(names, list) or not names or not all(isinstance(n, str | int | float) for n in names):
            raise DataError(f"{folder.path / described}: names: expected a list of class names, or 0: name lines")
        return list(map(str, names))
    if described.endswith(".data"):
        entries = dict(_pair(line) for _, line in lines_of(folder.text(described)) if "=" in line)
        wanted = PurePosixPath(entries.get("names", "obj.names")).name
        found = [name for name in folder.files if PurePosixPath(name).name == wanted]
        if not found:
            raise DataError(f"{folder.path / described}: names = {entries.get('names')}, but there is no {wanted}")
        described = found[0]
    return [line for _, line in lines_of(folder.text(described))]


def _images(folder: Folder, entries: Mapping[str, Any], part: str, name: str | None) -> list[str]:
    """The images of a part, of which an entry names folders, lists of images, or images."""
    given = entries[part] if isinstance(entries[part], list) else [entries[part]]
    base = str(entries.get("path") or "")
    out: list[str] = []
    for entry in map(str, given):
        where = _inside(folder, base, entry)
        if where is None:
            raise DataError(f"{folder.path / (name or '')}: {part}: there is no '{entry}' in this folder")
        if where in folder.files and where.endswith(".txt"):
            near = str(PurePosixPath(where).parent)
            for number, line in lines_of(folder.text(where)):
                out.append(folder.image(line, "" if near == "." else near, f"{where}, line {number}"))
        else:
            out += [image for image in folder.below(where) if image in folder.images]
    return out


def _inside(folder: Folder, base: str, entry: str) -> str | None:
    """The file or folder that an entry means. Leading folders that are not there are forgiven, as are ``../``."""
    for start in (base, ""):
        parts = [
            p for p in PurePosixPath(start.replace("\\", "/"), entry.replace("\\", "/")).parts if p not in ("..", "/")
        ]
        for first in range(len(parts)):
            name = "/".join(parts[first:])
            if name in folder.files or any(True for _ in folder.below(name)):
                return name
        if not parts:
            return "."
    return None


def _labels(folder: Folder, image: str, names: list[str]) -> tuple[list[LabelledObject], tuple[int, int]]:
    size, label = image_size(folder, image), _label_of(folder, image)
    if label is None:
        return [], size
    lines = lines_of(folder.text(label))
    return [_object(line, f"{folder.path / label}, line {number}", names, size) for number, line in lines], size


def _object(line: str, origin: str, names: list[str], size: tuple[int, int]) -> LabelledObject:
    words = line.split()
    try:
        number, values = float(words[0]), np.array(words[1:], np.float64)
    except ValueError:
        raise DataError(f"{origin}: {line[:60]!r}; expected a class number and coordinates") from None
    if number % 1 or not 0 <= number < len(names):
        raise DataError(f"{origin}: the class is {words[0]}; expected 0 to {len(names) - 1} ({', '.join(names[:20])})")
    box = len(values) in (4, 5)  # a fifth is a confidence
    if not box and (len(values) < 6 or len(values) % 2):
        what = "a box of 4 numbers or a polygon of at least 3 points in pairs"
        raise DataError(f"{origin}: {len(values)} numbers follow the class; expected {what}")
    if not ((values >= -BEYOND) & (values <= 1 + BEYOND)).all():
        far = words[1 + int(np.argmin((values >= -BEYOND) & (values <= 1 + BEYOND)))]
        raise DataError(
            f"{origin}: the coordinate {far} is not within 0..1; YOLO writes parts of the image, not pixels"
        )
    scale = np.array([size[1], size[0]], np.float64)
    if box:
        centre, side = values[:2] * scale, values[2:4] * scale
        return LabelledObject(names[int(number)], [*(centre - side / 2), *(centre + side / 2)], origin=origin)
    polygon = (values.reshape(-1, 2) * scale).round(3).reshape(-1).tolist()  # numbers such as 7.5, as they were
    return LabelledObject(names[int(number)], None, [polygon], origin)


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return key.strip(), value.strip()
