"""YoloDataset: text files of classes and relative coordinates, boxes and polygons, with any of their ways of paths."""

import collections
import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, image_size, lines_of
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.formats.parts import by_part
from detkit.data.formats.yolo_parts import PARTS, inside, listed, yolo_parts
from detkit.data.image_files import log_once
from detkit.data.interfaces import DATASETS
from detkit.data.issues import Issue
from detkit.registry import DataError
from detkit.structures import KeypointSpec
from detkit.utils.words import amount

logger = logging.getLogger(__name__)
NAMES = r"(?m)^(names|nc)\s*:"
ROW = r"\s*\d+(\s+-?[\d.]\S*){4}"
MOST_NUMBERED = 100_000
"""Classes, or keypoints, that a number alone may stand for."""
BEYOND = 0.01
"""How far a coordinate may lie outside of 0..1 (rounding) before it is a mistake."""


@DATASETS.register()
class YoloDataset(FormatDataset):
    """YOLO labels (Ultralytics, Darknet, Roboflow, CVAT, Label Studio): a text file an image, a row an object.

    A row is ``class cx cy width height`` or ``class x y x y ...``, in parts of the image; both may stand in one file.
    Keypoints follow a box where ``data.yaml`` has a ``kpt_shape``. Those that a mirror exchanges are in ``flip_idx``,
    or else known by their names (``kpt_names``). Class names are those of ``data.yaml`` (or another YAML with
    ``names``; with ``nc`` alone they are ``class_0`` and so on), ``obj.data``, ``classes.txt`` or ``_darknet.labels``.
    An image without a label file, or with an empty one, is a background. Parts are those of this file: ``train``,
    ``val``, ``test``, and other keys that name images of their own. Options are those of ``FormatDataset``.
    """

    key = "yolo"
    format = "YOLO"

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        folder = cls.locate(folder)
        described = _description(folder)
        if described is not None and (labels := sum(1 for _ in _label_files(folder))):
            return f"{labels} label files, described by {described.file}"
        return None

    @classmethod
    def hint(cls, folder: Folder) -> str:
        if any(_label_files(folder)):
            return "Text files are named as images: for YOLO, write a data.yaml with 'names: [first, second]'. "
        texts = folder.glob("*.txt")
        if name := next((name for name in texts if re.match(ROW, folder.head(name))), None):
            near = ", or in 'images' where this says 'labels'" if "labels/" in name else ""
            return f"{name} looks like YOLO's labels: an image '{PurePosixPath(name).stem}' belongs beside it{near}. "
        return ""

    @classmethod
    def locate(cls, folder: Folder) -> Folder:
        """The folder above what the user's YAML means, where that is there and not below the YAML's own folder.

        In a folder that holds one YAML and no labels, that is the user's.
        """
        name = folder.given or _lone(folder)
        name = name if name and name.endswith((".yaml", ".yml")) else None
        entries = folder.yaml(name) if name else {}
        written = [entry for part in PARTS for entry in listed(entries.get(part))]
        if "path" not in entries and any(inside(folder, (), entry) for entry in written):
            return folder  # Roboflow's ../train is below the YAML's own folder
        starts = (folder.path, Path.cwd())
        for start in (*starts, *(start / "datasets" for start in (*starts, folder.path.parent))):
            base = start / Path(str(entries.get("path") or ".")).expanduser()
            for way in (os.path.abspath, os.path.realpath):  # labels lie beside a link to images, or beside its target
                paths = [path for entry in written if (path := Path(way(base / entry))).exists()]
                outside = [path for path in paths if not path.is_relative_to(way(folder.path))]
                found = _above(outside, folder, str(name)) if outside else folder
                if paths and any(_label_files(found)):
                    return found
        return folder

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        described = _description(folder)
        found = yolo_parts(folder, *described) if described else {}
        return found or by_part(folder.images, own_name=False)

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        described = _description(folder)
        assert described is not None  # recognise has seen it
        reader = _Reader(folder, class_names(folder, described), described.entries, f"{folder.path / described.file}")
        images = [reader.image(path) for paths in parts.values() for path in paths]
        content = Content.of_images(folder, images, reader.names, [*reader.notes(), *_note_unused(folder)])
        return dataclasses.replace(content, keypoints=reader.keypoints())


class _Description(NamedTuple):
    """The file that names the classes, and the keys of a YAML or ``obj.data``; a list of names has none."""

    file: str
    entries: Mapping[str, Any]


def _above(paths: list[Path], folder: Folder, name: str) -> Folder:
    """The folder above those of images that a YAML in ``folder`` names; ``folder`` where that would be a whole disk."""
    tops = [re.split(r"/(?:images|JPEGImages)(?=/|$)", path.as_posix())[0] for path in paths]
    top = Path(os.path.commonpath([path if os.path.isdir(path) else os.path.dirname(path) for path in tops]))
    if top in (Path(top.anchor), Path.home()):
        return folder
    return Folder(top, str((folder.path / name).resolve()), folder.stored)


def _description(folder: Folder) -> _Description | None:
    """What names the classes; None where nothing does."""
    for name in sorted(folder.candidates("*.yaml", "*.yml"), key=lambda name: name.count("/")):
        near = name == folder.given or name.count("/") < 3
        if near and re.search(NAMES, folder.head(name)):
            entries = folder.yaml(name)
            if "names" in entries or {"nc", "train"} <= entries.keys():  # a model's YAML has the number of classes, too
                return _Description(name, entries)
    for pattern in ("*.data", "classes.txt", "*.names", "*.labels"):
        for name in folder.candidates(pattern):
            if name.count("/") < 3 and any(_label_files(folder)):
                return _Description(name, _pairs(folder.text(name)) if pattern == "*.data" else {})
    return None


def _pairs(text: str) -> dict[str, str]:
    """The values of lines ``key = value``."""
    pairs = (line.partition("=") for _, line in lines_of(text) if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _lone(folder: Folder) -> str | None:
    """The one YAML with names of a folder without labels."""
    found = [name for name in folder.files if "/" not in name and name.endswith((".yaml", ".yml"))]
    named = len(found) == 1 and re.search(NAMES, folder.head(found[0]))
    return found[0] if named and not any(_label_files(folder)) else None


def _label_files(folder: Folder) -> Iterator[str]:
    """The text files that lie where the labels of images lie."""
    return (label for image in folder.images if (label := _label_of(folder, image)) is not None)


def _note_unused(folder: Folder) -> list[str]:
    """What label files hold whose image is not there, or has another name, is lost: this is said."""
    used = set(_label_files(folder))
    places = {os.path.dirname(label) for label in used}
    texts = (name for name in folder.files if name.endswith(".txt") and os.path.dirname(name) in places)
    unused = [name for name in texts if name not in used and re.match(ROW, folder.head(name))]
    if not unused:
        return []
    what = f"{amount(len(unused), 'label file')} without an image left out, such as {unused[0]}"
    log_once(Issue("label without an image", str(folder.path), "", what, "give image and label one name", "warning"))
    return [what]


def _label_of(folder: Folder, image: str) -> str | None:
    """The label file of an image: under ``labels`` where it is under ``images``, or beside it."""
    path = PurePosixPath(image)
    parts, stem = list(path.parts[:-1]), path.name[: -len(path.suffix)]
    for at in reversed([i for i, part in enumerate(parts) if part.lower() in ("images", "jpegimages")]):
        if name := folder.same("/".join([*parts[:at], "labels", *parts[at + 1 :], f"{stem}.txt"])):
            return name
    return folder.same("/".join([*parts, f"{stem}.txt"]))


def class_names(folder: Folder, described: _Description) -> list[str]:
    """The names of the classes in their order. Raises DataError for names that are none, or stand there twice."""
    (file, entries), place = described, folder.path / described.file
    if file.endswith((".yaml", ".yml")):
        names = _names_in_yaml(entries)
        if not names:
            raise DataError(f"{place}: names: expected a list of class names, or 0: name lines from 0 on")
    else:
        if file.endswith(".data"):
            wanted = PurePosixPath(entries.get("names", "obj.names")).name
            file = next((name for name in folder.files if PurePosixPath(name).name == wanted), "")
            if not file:
                raise DataError(f"{place}: names = {entries.get('names')}, but there is no {wanted}")
        names = [line for _, line in lines_of(folder.text(file))]
    if twice := [name for name, count in collections.Counter(names).items() if count > 1]:
        places = " and ".join(str(i) for i, name in enumerate(names) if name == twice[0])
        raise DataError(f"{place}: names: classes {places} are both named '{twice[0]}'; give each a name of its own")
    return names


def _names_in_yaml(entries: Mapping[str, Any]) -> list[str]:
    """The list or mapping ``names``, or else ``nc`` names that are made up; empty for what is none of these."""
    names, nc = entries.get("names"), entries.get("nc")
    if "names" not in entries and type(nc) is int and nc < MOST_NUMBERED:
        return [f"class_{i}" for i in range(nc)]
    if isinstance(names, Mapping):
        try:
            by_number = {int(key): value for key, value in names.items()}
            names = [by_number[number] for number in range(len(names))]
        except (KeyError, TypeError, ValueError):
            return []
    if not isinstance(names, list) or not all(isinstance(name, str | int | float) for name in names):
        return []
    return list(map(str, names))


@dataclasses.dataclass
class _Reader:
    """Reads labels. What ``data.yaml`` says of keypoints: ``kpt_shape`` is how many, and 3 with visibility or 2."""

    folder: Folder
    names: list[str]
    entries: Mapping[str, Any]
    place: str
    corners: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)

    def __post_init__(self) -> None:
        self.points, self.per_point = 0, 0
        if (shape := self.entries.get("kpt_shape")) is not None:
            points, per_point = shape if isinstance(shape, list) and len(shape) == 2 else (None, None)
            if type(points) is not int or not 0 <= points < MOST_NUMBERED or per_point not in (2, 3):
                raise DataError(f"{self.place}: kpt_shape is {shape!r}; expected the number of keypoints and 2 or 3")
            self.points, self.per_point = points, per_point
        nc = self.entries.get("nc")
        if nc is not None and nc != len(self.names):
            logger.warning("%s: nc is %s, but there are %d names, which count", self.place, nc, len(self.names))

    def keypoints(self) -> dict[int, KeypointSpec]:
        """Category id -> its keypoints."""
        names = self.entries.get("kpt_names") or [*range(self.points)]
        names = next(iter(names.values())) if isinstance(names, Mapping) else names
        others = self.entries.get("flip_idx")
        if others is not None and sorted(map(str, others)) != sorted(map(str, range(self.points))):
            what = f"flip_idx is {str(others)[:60]}; expected each of 0 to {self.points - 1} once"
            raise DataError(f"{self.place}: {what}")
        pairs = None if others is None else tuple((i, int(j)) for i, j in enumerate(others) if i < int(j))
        try:
            spec = dataclasses.replace(KeypointSpec.from_coco({"keypoints": names}), mirrored=pairs)
        except ValueError as error:
            raise DataError(f"{self.place}: {error}") from None
        return dict.fromkeys(range(1, len(self.names) + 1), spec) if self.points else {}

    def notes(self) -> list[str]:
        if set(self.corners) != {4}:
            return []
        return ["all outlines have four corners; if they are turned boxes (OBB), they are taken as masks and extents"]

    def image(self, path: str) -> LabelledImage:
        size, label = image_size(self.folder, path), _label_of(self.folder, path)
        if label is None:
            return LabelledImage(path, [], size)
        place, lines = self.folder.path / label, lines_of(self.folder.text(label))
        return LabelledImage(path, [self.object(line, f"{place}, line {number}", size) for number, line in lines], size)

    def object(self, line: str, origin: str, size: tuple[int, int]) -> LabelledObject:
        """One row. Raises DataError for what is none."""
        words = line.split()
        try:
            number, values = float(words[0]), np.array(words[1:], np.float64)
        except ValueError:
            raise DataError(f"{origin}: {line[:60]!r}; expected a class number and coordinates") from None
        last = len(self.names) - 1
        if number % 1 or not 0 <= number <= last:
            raise DataError(f"{origin}: the class is {words[0]}; expected 0 to {last} ({', '.join(self.names[:20])})")
        points = np.ones((self.points, 3))
        if self.points:
            if len(values) != 4 + points[:, : self.per_point].size:
                what = f"4 and {self.points} x {self.per_point}, as kpt_shape says"
                raise DataError(f"{origin}: {len(values)} numbers follow the class; expected {what}")
            points[:, : self.per_point] = values[4:].reshape(self.points, self.per_point)
            values = values[:4]
        box = len(values) in (4, 5)
        values = values[:4] if box else values  # a fifth is a confidence, or in CVAT's export of tracks the track
        if not box and (len(values) < 6 or len(values) % 2):
            what = "a box of 4 numbers or a polygon of at least 3 points in pairs"
            raise DataError(f"{origin}: {len(values)} numbers follow the class; expected {what}")
        if not (within := (values >= -BEYOND) & (values <= 1 + BEYOND)).all():
            far = words[1 + int(np.argmin(within))]
            raise DataError(
                f"{origin}: the coordinate {far} is not within 0..1; YOLO writes parts of the image, not pixels"
            )
        scale = np.array([size[1], size[0]], np.float64)
        if not box:
            self.corners[len(values) // 2] += 1
            polygon = (values.reshape(-1, 2) * scale).round(3).reshape(-1).tolist()  # such as 7.5, as they were
            return LabelledObject(self.names[int(number)], None, [polygon], origin)
        centre, side = values[:2] * scale, values[2:4] * scale
        found = LabelledObject(self.names[int(number)], [*(centre - side / 2), *(centre + side / 2)], origin=origin)
        if self.points:
            seen = np.where((points[:, :2] > 0).any(1), points[:, 2] if self.per_point == 3 else 2, 0)
            found.keypoints = np.column_stack([points[:, :2] * scale, seen]).reshape(-1).tolist()
        return found
