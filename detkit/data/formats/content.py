"""What a format's reader gives: labelled images and their objects, and the rows that are made of them."""

import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask

from detkit.data.datasets.rows import FAR, ORIGIN, ImageRow
from detkit.data.formats.files import Folder
from detkit.data.formats.segment_files import SegmentFile
from detkit.data.image_files import log_once, naming_warnings, open_image
from detkit.data.images import sizes
from detkit.data.interfaces import EVERY_CLASS
from detkit.registry import DataError
from detkit.structures import KeypointSpec
from detkit.utils.words import amount

MOST_VALUES = 5000
"""Of a mask; each is looked for in all pixels."""


@dataclasses.dataclass
class LabelledObject:
    """One object of an image.

    Args:
        label: the name of its class; None for a crowd that may be of any.
        box: x1, y1, x2, y2 in pixels, half-open; None for the extent of its mask.
        mask: polygons ``[[x, y, x, y, ...], ...]``, an RLE, or an ``(H, W)`` array of booleans, which becomes an RLE at
            once: those of a dataset are all held until its classes are known. None without one.
        origin: where it stands, for messages: ``"labels/a.txt, line 3"``.
        crowd: whether it is a region to ignore.
        keypoints: x, y, visibility of each, as ``Row`` has them; None without any.
        turned: whether it was a turned box, of which ``box`` is the one around it; it is said.
    """

    label: str | None
    box: Sequence[float] | None
    mask: Any = None
    origin: str = ""
    crowd: bool = False
    keypoints: Sequence[float] | None = None
    turned: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.mask, np.ndarray):
            self.mask = coco_mask.encode(np.asfortranarray(self.mask, np.uint8))


@dataclasses.dataclass
class LabelledImage:
    """An image and its objects.

    Args:
        path: the file, below the folder of the data.
        objects: what is labelled in it.
        size: ``(height, width)``; None: what the file's header says.
        id: its id where the format has one; else its path stands for it.
        ignored: how many of its labels are no objects, such as points, lines and those without a class; it is said.
    """

    path: str
    objects: Sequence[LabelledObject]
    size: tuple[int, int] | None = None
    id: int | str | None = None
    ignored: int = 0


@dataclasses.dataclass
class Content:
    """Rows in COCO's words, as ``AnnotationTable.from_rows`` takes them.

    Args:
        images, rows, categories, keypoints: the rows.
        notes: what was taken in another way than a user may think, in words.
        extras: ``images``, ``annotations`` and ``categories`` -> id -> what else ``coco()`` says of it.
        embedded: the path of an image that is no file -> the JSON file that holds it as ``imageData``.
        segments: the path of an image -> its file of segments, where all images have one.
        stuff: the categories of stuff among these segments, id -> name.
        lists_classes: whether the data say which classes there are, beside the labels of their objects.
        place: the file that says all of it, for messages; "" where several do.
    """

    images: list[ImageRow]
    rows: list[dict[str, Any]]
    categories: Mapping[int, str]
    keypoints: Mapping[int, KeypointSpec] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    extras: Mapping[str, Mapping[Any, Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
    embedded: Mapping[str, str] = dataclasses.field(default_factory=dict)
    segments: Mapping[str, SegmentFile] = dataclasses.field(default_factory=dict)
    stuff: Mapping[int, str] = dataclasses.field(default_factory=dict)
    lists_classes: bool = True
    place: str = ""

    @staticmethod
    def of_images(
        folder: Folder, images: Iterable[LabelledImage], class_names: Sequence[str] | None, notes: Sequence[str] = ()
    ) -> "Content":
        """The rows of labelled images.

        Args:
            folder: the data's folder.
            images: the images; of one that comes twice the first counts, which is said if others say something else.
            class_names: the classes in order; None for the labels that occur, sorted.
            notes: see ``Content``.

        Raises:
            DataError: an image is missing, a label is no class, an image has no size, a mask is no mask.
        """
        kept, twice = _first_of_each(images)
        folder.raise_missing()
        things = [thing for image in kept.values() for thing in image.objects]
        seen = {thing.label for thing in things if thing.label is not None}
        names = sorted(seen) if class_names is None else list(dict.fromkeys(class_names))
        if not names:
            what = "points, lines and tags are none, nor are shapes without a class"
            raise DataError(f"{folder.path}: its {len(kept)} images have no object; {what}")
        number = {name: i for i, name in enumerate(names, 1)}
        if unknown := next((thing for thing in things if thing.label is not None and thing.label not in number), None):
            known = ", ".join(names[:20]) or "none"
            fix = "correct it, or add it to their list"
            raise DataError(f"{unknown.origin}: '{unknown.label}' is none of the classes ({known}); {fix}")
        ids = {image.id for image in kept.values()}
        has_ids = None not in ids and len(ids) == len(kept) and len({*map(type, ids)}) == 1
        rows: list[dict[str, Any]] = []
        image_rows = []
        for path, image in kept.items():
            size = image.size or image_size(folder, path)
            image_rows.append(ImageRow(image.id if has_ids else path, path, *size))
            for thing in image.objects:
                category = 1 if thing.label is None else number[thing.label]
                rows.append(_row(thing, len(rows) + 1, image_rows[-1].id, category, size))
        regions = {i: {EVERY_CLASS: 1} for i, thing in enumerate(things, 1) if thing.label is None}
        return Content(
            image_rows,
            rows,
            {i: name for name, i in number.items()},
            notes=[*notes, *_notes(kept.values(), twice)],
            extras={"annotations": regions},
            lists_classes=class_names is not None,
        )

    def move_regions(self, class_names: Collection[str]) -> None:
        """Puts regions of every class, which have to be of one, into one that is chosen, so that they are kept."""
        chosen = next((id_ for id_, name in self.categories.items() if name in class_names), None)
        regions = self.extras.get("annotations", {})
        for row in self.rows if regions and chosen is not None else ():
            if EVERY_CLASS in regions.get(row["id"], ()):
                row["category_id"] = chosen


def _first_of_each(images: Iterable[LabelledImage]) -> tuple[dict[str, LabelledImage], int]:
    """Path -> the first image of it; and how many further ones have other objects than that."""
    kept: dict[str, LabelledImage] = {}
    others = 0
    for image in images:
        first = kept.setdefault(image.path, image)
        if image is not first:
            others += [thing.origin for thing in first.objects] != [thing.origin for thing in image.objects]
    return kept, others


def _notes(images: Collection[LabelledImage], twice: int) -> Iterator[str]:
    """What of the labels is taken in another way than a user may think."""
    turned = sum(thing.turned for image in images for thing in image.objects)
    ignored = sum(image.ignored for image in images)
    if turned:
        yield f"{turned} turned boxes are taken as the boxes around them"
    if twice:
        yield f"{amount(twice, 'image')} labelled more than once; what is said first counts"
    if ignored:
        yield f"{amount(ignored, 'label')} without area or class left out, such as points, lines and tags"


def listed_first(listed: Iterable[str], images: Iterable[LabelledImage]) -> list[str] | None:
    """The classes that a list names, in its order, and the other labels behind them, sorted; None without a list."""
    names = dict.fromkeys(listed)
    if not names:
        return None
    others = {thing.label for image in images for thing in image.objects} - names.keys() - {None}
    return [*names, *sorted(filter(None, others))]


def _row(thing: LabelledObject, id_: int, image_id: Any, category: int, size: tuple[int, int]) -> dict[str, Any]:
    mask = thing.mask
    if isinstance(mask, dict) and isinstance(mask["counts"], bytes) and tuple(mask["size"]) != tuple(size):
        found = f"{mask['size'][1]} x {mask['size'][0]}"  # of an array; what a file encoded is checked with the rows
        raise DataError(f"{thing.origin}: the mask is of {found} pixels, its image of {size[1]} x {size[0]}")
    box = thing.box
    if box is None:
        box = _extent(mask, thing.origin)
    x1, y1, x2, y2 = map(float, box)
    out = {"id": id_, "image_id": image_id, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1]}
    own = {"segmentation": mask, "keypoints": thing.keypoints, ORIGIN: thing.origin}
    return {**out, "iscrowd": int(thing.crowd), **own}


def _extent(mask: Any, origin: str) -> Sequence[float]:
    if isinstance(mask, dict):
        x, y, width, height = coco_mask.toBbox(mask).tolist()
        return x, y, x + width, y + height
    points = np.concatenate([np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in mask])
    if not (np.abs(points) < FAR).all():
        raise DataError(f"{origin}: a corner of the outline is not a number of pixels below {FAR:.0f}")
    return (*points.min(0).tolist(), *points.max(0).tolist())


def values_of(ids: np.ndarray, place: str) -> list[int]:
    """The different values of a mask of ids. Raises DataError for more than an image can have objects."""
    values: list[int] = np.unique(ids).tolist()
    if len(values) > MOST_VALUES:
        what = f"has {len(values)} different values, so it seems to be a photograph and no mask"
        raise DataError(f"{place}: {what}; give the masks' folder, or the mask as it was before it was compressed")
    return values


def image_size(folder: Folder, path: str) -> tuple[int, int]:
    """``(height, width)`` of an image from its header, of which its labels are. Raises DataError without one."""
    try:
        file = os.path.join(folder.path, path)
        with naming_warnings(file, log_once), open_image(file) as image:
            return sizes(image)[0 if folder.stored else 1]
    except Exception as error:
        raise DataError(f"{folder.path / path}: cannot be read as an image ({error})") from None


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """The lines that hold something, and their numbers; Unicode's other breaks, such as U+2028, are part of a line."""
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        if line.strip():
            yield number, line.strip()
