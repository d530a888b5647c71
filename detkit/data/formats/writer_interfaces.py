"""The role LabelWriter: labels written image by image, whatever they are made of."""

import collections
import dataclasses
import operator
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image

from detkit.data.images import DEFAULT_READING, ImageReading, lies_as_read
from detkit.registry import DataError, Registry
from detkit.utils.file_names import FreeNames

TOLERANCE = 1.0
"""Pixels that a corner of a predicted outline may lie beside the mask's rim, so that a person can move the corners."""
_BREAKS = re.compile(r"\s*[\r\n]\s*")
OTHER_BOXES = "boxes that are not around their masks replaced by the boxes around them"


@dataclasses.dataclass(frozen=True)
class ImageLabels:
    """An image and what is to be written of it.

    Args:
        name: its path; the folders in it are kept.
        size: ``(height, width)``.
        rows: annotations or results in COCO's words.
        file: its file, which is copied; None, one that is not there, or one that its EXIF tag turns though the labels
            are of the pixels as they are stored: ``pixels`` are written, since tools would show the labels beside.
        pixels: gives ``(H, W, 3)`` uint8.
        reading: how the file is read.
        id: its id, where the source has one.
        extras: what else COCO's form says of it: LVIS's lists of classes.
    """

    name: str
    size: tuple[int, int]
    rows: Sequence[Mapping[str, Any]]
    file: str | os.PathLike[str] | None = None
    pixels: Callable[[], np.ndarray] | None = None
    reading: ImageReading = DEFAULT_READING
    id: int | str | None = None
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class LabelWriter:
    """Writes images with their labels into a folder, one at a time, so that memory stays flat. A subclass is a format.

    It is a context: what belongs to all images is written at its end, also if that is an exception. Images are copied.

    Args:
        root: a folder that is empty or not there.
        categories: COCO's, in the order of the classes.
        predicted: whether the rows are predictions to correct: outlines of masks get fewer corners, within a pixel.

    Attributes:
        key: the format's name for ``--to`` and ``--label-format``.
        lost: what the format cannot hold and was left out, in words -> how many.

    Raises:
        DataError: the folder holds something.
    """

    key: ClassVar[str]
    image_folder: ClassVar[str] = "images"
    """Where the images of all parts lie."""
    lists_names: ClassVar[bool] = False
    """Whether the classes are the lines of a file, so that a name is one line."""

    def __init__(self, root: str | os.PathLike[str], categories: Sequence[Mapping[str, Any]], predicted: bool = False):
        self.root, self.categories, self.predicted = Path(root).expanduser(), list(categories), predicted
        if self.root.is_dir() and any(self.root.iterdir()):
            raise DataError(f"{self.root}: is not empty; give a new folder, so that nothing of yours is mixed with it")
        self.root.mkdir(parents=True, exist_ok=True)
        self.class_names = [str(category["name"]) for category in categories]
        self.number = {category["id"]: i for i, category in enumerate(categories)}
        self.tolerance = TOLERANCE if predicted else 0.0
        self.lost: collections.Counter[str] = collections.Counter()
        if self.lists_names:
            given, self.class_names = self.class_names, [_BREAKS.sub(" ", name) for name in self.class_names]
            words = "class names with line breaks written with spaces instead"
            self.lost[words] += sum(map(operator.ne, given, self.class_names))
        self._free = collections.defaultdict[str, FreeNames](lambda: FreeNames(by_stem=True))
        self.begin()

    def __enter__(self) -> "LabelWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def begin(self) -> None:
        """Prepares what the format needs, before the first image."""

    def add(self, part: str, image: ImageLabels) -> None:
        """Writes an image of a part of the dataset; "" where there are no parts."""
        self.write(part, self._copied(part, image), image)

    def write(self, part: str, name: str, image: ImageLabels) -> None:
        """Writes the labels of an image that now lies at ``name`` below the folder ``images_of(part)``."""
        raise NotImplementedError

    def close(self) -> None:
        """Writes what belongs to all images."""

    def images_of(self, part: str) -> Path:
        """The folder of a part's images."""
        return self.root / self.image_folder / part

    def label(self, row: Mapping[str, Any]) -> str:
        """The name of an object's class."""
        return self.class_names[self.number[row["category_id"]]]

    def objects(
        self, image: ImageLabels, keeps_scores: bool = False, keeps_boxes: bool = False
    ) -> list[Mapping[str, Any]]:
        """The rows that are no crowds, which only COCO knows; counts what is lost of them.

        Boxes are lost where a format has an outline instead; those of predictions are none that a person drew.
        """
        rows = [row for row in image.rows if not row.get("iscrowd")]
        self.lost["images' lists of classes that were looked for left out"] += bool(image.extras)
        self.lost["crowds left out"] += len(image.rows) - len(rows)
        self.lost["objects' keypoints left out"] += sum("keypoints" in row for row in rows)
        if not keeps_boxes and not self.predicted:
            self.lost[OTHER_BOXES] += sum(_differs(row, image.size) for row in rows)
        self.lost["scores left out"] += 0 if keeps_scores else sum("score" in row for row in rows)
        return rows

    def _copied(self, part: str, image: ImageLabels) -> str:
        """Copies an image; its name there. One that is no file of its own is written as PNG."""
        own, folder = PurePosixPath(image.name.replace("\\", "/")), self.images_of(part)
        folders = [name for name in own.parts[:-1] if name not in ("/", "..")]
        is_file = image.file is not None and os.path.isfile(image.file)
        is_file = is_file and lies_as_read(str(image.file), image.size, image.reading)
        relative = self._free[part](Path(*folders, own.name if is_file else f"{own.stem}.png"))
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        if image.file is not None and is_file:
            shutil.copyfile(image.file, folder / relative)
        elif image.pixels is not None:
            Image.fromarray(image.pixels()).save(folder / relative)
        return relative.as_posix()


LABEL_WRITERS: Registry[LabelWriter] = Registry("label writer", LabelWriter)


def corners(row: Mapping[str, Any], size: tuple[int, int]) -> list[float]:
    """x1, y1, x2, y2 of an object's box, cut to its image."""
    x, y, w, h = row["bbox"]
    return [max(x, 0), max(y, 0), min(x + w, size[1]), min(y + h, size[0])]


def _differs(row: Mapping[str, Any], size: tuple[int, int]) -> bool:
    """Whether an object's box lies over a pixel beside that around its mask."""
    if not (mask := row.get("segmentation")):
        return False
    if isinstance(mask, list):
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in mask])
        around = [*points.min(0), *(points.max(0) - points.min(0))]
    else:
        around = coco_mask.toBbox(mask).tolist()
    beside = np.subtract(corners(row, size), corners({"bbox": around}, size))
    return bool(around[2] * around[3] > 0 and (np.abs(beside) > 1).any())


def write_text(path: Path, text: str) -> None:
    """Writes a file of labels, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
