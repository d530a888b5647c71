"""The annotations of a COCO instances JSON, checked and laid flat: plain ones together, any others one by one."""

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from detkit.data.datasets.annotations import AnnotationTable
from detkit.data.datasets.coco_columns import FAR, Columns, PlainAnnotation, laid_flat, plain_columns
from detkit.data.datasets.coco_json import CocoFile, ImageEntry
from detkit.data.datasets.json_entries import chunks_of
from detkit.data.flat import offsets
from detkit.structures.rle import checked_rle, rle_counts

InvalidBoxes = Literal["drop", "error"]
InvalidMasks = Literal["error", "drop", "box"]


@dataclasses.dataclass(frozen=True)
class Policy:
    """What happens to annotations that cannot be used; see ``CocoInstances``."""

    keep_crowd: bool
    invalid_boxes: InvalidBoxes
    invalid_masks: InvalidMasks


@dataclasses.dataclass
class _Row:
    index: int
    id: int
    image: int
    class_index: int
    crowd: bool
    box: tuple[float, float, float, float]
    area: float = 0.0
    polygons: Sequence[np.ndarray] = ()
    rle: bytes = b""


class AnnotationReader:
    """Turns a file's annotations into an ``AnnotationTable``.

    Args:
        file: the file.
        images: its images.
        classes: category id -> class index, -1 for a category that is left out.
        policy: what happens to annotations that cannot be used.

    Attributes:
        tally: what was left out or changed, in words -> how many.
    """

    def __init__(self, file: CocoFile, images: Sequence[ImageEntry], classes: Mapping[int, int], policy: Policy):
        self.file, self.images, self.classes, self.policy = file, images, classes, policy
        self.tally: collections.Counter[str] = collections.Counter()
        self._image_index = {image.id: i for i, image in enumerate(images)}
        self._sizes = np.array([image.size for image in images], np.float64).reshape(-1, 2)
        self._has_masks = any(entry.get("segmentation") for entry in file.content["annotations"])

    def read(self) -> AnnotationTable:
        """All annotations, ordered by image. Raises DataError for the first that is wrong, as the file's report says.

        Where the report returns, annotations that cannot be used are left out.
        """
        pieces = [_columns([])]
        for rows, entries in chunks_of(self.file.content["annotations"], PlainAnnotation):
            pieces += self._pieces(rows, entries)
        if not np.diff(np.sort(np.concatenate([piece.id for piece in pieces]))).all():
            pieces = self._without_twins(pieces)
        return self._table(pieces)

    def _pieces(self, rows: range, entries: list[PlainAnnotation] | None) -> Iterator[Columns]:
        """The columns of those rows of the file; ``entries``: the rows, where all of them have the expected types."""
        found, others = None, list(rows)
        if entries is not None:
            found = plain_columns(entries, rows.start, self._image_index, self.classes, self._has_masks)
        if found is not None:
            columns, plain = found
            left_out = columns.class_index < 0
            crowds = columns.crowd & ~left_out & (not self.policy.keep_crowd)
            sound = plain & self._sound_boxes(columns) & ~left_out & ~crowds
            yield columns.select(sound)
            self.tally["objects of other classes left out"] += int(left_out.sum())
            self.tally["crowds left out"] += int(crowds.sum())
            others = (np.flatnonzero(~(sound | left_out | crowds)) + rows.start).tolist()
        yield _columns([row for i in others if (row := self._row(i)) is not None])

    def _sound_boxes(self, columns: Columns) -> np.ndarray:
        """Which boxes have an area in their image and do not reach over it."""
        x, y, w, h = columns.box.T
        height, width = self._sizes[columns.image].T
        inside = (x >= -0.5) & (y >= -0.5) & (x + w <= width + 0.5) & (y + h <= height + 0.5)
        seen = (np.minimum(x + w, width) > np.maximum(x, 0)) & (np.minimum(y + h, height) > np.maximum(y, 0))
        return inside & seen & (w > 0) & (h > 0)

    def _without_twins(self, pieces: list[Columns]) -> list[Columns]:
        """Of annotations with one id only the first, after complaining of the others."""
        ids, index = (np.concatenate([getattr(p, name) for p in pieces]) for name in ("id", "index"))
        order = np.argsort(index)
        keep = np.zeros(len(ids), bool)
        keep[order[np.unique(ids[order], return_index=True)[1]]] = True
        for id_ in ids[order[~keep[order]]].tolist():
            words = f"two annotations have the id {id_}; give each its own"
            self.file.complain("annotation id twice", f"annotation {id_}", words)
        parts = np.split(keep, np.cumsum([len(piece) for piece in pieces])[:-1])
        return [piece.select(part) for piece, part in zip(pieces, parts)]

    def _row(self, index: int) -> _Row | None:
        field, entry = self.file.field, self.file.content["annotations"][index]
        annotation_id = field("annotations", index, "id", (int,))
        image_id = field("annotations", index, "image_id", (int, str))
        category_id = field("annotations", index, "category_id", (int,))
        known = self._knows(annotation_id, image_id, category_id)
        bbox = field("annotations", index, "bbox", (list,))
        if annotation_id is None or image_id not in self._image_index or bbox is None:
            return None
        row = _Row(
            index=index,
            id=annotation_id,
            image=self._image_index[image_id],
            class_index=self.classes.get(category_id, 0),
            crowd=bool(entry.get("iscrowd", 0)),
            box=_numbers4(bbox),
        )
        if row.class_index < 0:
            self.tally["objects of other classes left out"] += 1
            return None
        if row.crowd and not self.policy.keep_crowd:
            self.tally["crowds left out"] += 1
            return None
        sound = self._sound_box(row)
        if sound is None or (self._has_masks and not self._read_shape(row, entry.get("segmentation"))):
            return None
        row.area = _area(entry.get("area"), row)
        return row if sound and known else None

    def _knows(self, annotation_id: Any, image_id: Any, category_id: Any) -> bool:
        """Whether image and category are the file's; complains of those that are not."""
        label = f"annotation {annotation_id}"
        if image_id is not None and image_id not in self._image_index:
            words = f"{label}: image_id {image_id!r} is not the id of any of the {len(self.images)} images"
            self.file.complain("unknown image", label, words)
        if category_id is not None and category_id not in self.classes:
            known = ", ".join(map(str, sorted(self.classes)[:20])) + (" ..." if len(self.classes) > 20 else "")
            words = f"{label}: category_id {category_id} is not listed in 'categories' ({known})"
            self.file.complain("unknown category", label, words)
        return image_id in self._image_index and category_id in self.classes

    def _sound_box(self, row: _Row) -> bool | None:
        """Whether the box has an area within its image; None where the policy leaves it out. Counts what it cuts."""
        image, (x, y, w, h), label = self.images[row.image], row.box, f"annotation {row.id}"
        if not all(map(math.isfinite, row.box)):
            words = f"{label}: bbox is not four finite numbers (x, y, width, height)"
            self.file.complain("box that is not finite", label, words)
            return False
        height, width = image.size
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if w <= 0 or h <= 0 or x2 <= x1 or y2 <= y1:
            words = f"{label}: its bbox {list(row.box)} (x, y, width, height) has no area in its image"
            words += f" ({image.file_name}, {width} x {height}); correct it, or set invalid_boxes: drop"
            drop = self.policy.invalid_boxes == "drop"
            self.file.complain("box without area", label, words, serious=not drop)
            self.tally["boxes without area in their image left out"] += 1
            return None if drop else False
        if max(x1 - x, y1 - y, x + w - x2, y + h - y2) > 0.5:
            words = f"{label}: its bbox {list(row.box)} reaches over its image ({image.file_name}, {width} x {height})"
            self.file.complain("box over the edge", label, words, serious=False)
            self.tally["boxes that reached over their image cut"] += 1
        return True

    def _read_shape(self, row: _Row, segmentation: Any) -> bool:
        """Fills in the row's polygons or RLE; False where the annotation is left out."""
        if not segmentation:
            return self._no_shape(row, "no mask", "has no segmentation, but other annotations have one")
        if isinstance(segmentation, Mapping):
            return self._read_rle(row, segmentation)
        parts = segmentation if isinstance(segmentation, list) else [segmentation]
        if not isinstance(parts[0], list):
            parts = [parts]
        read = [self._polygon(row, part) for part in parts]
        polygons = [p for p in read if p is not None]
        row.polygons = [p for p in polygons if len(p) >= 6]
        bad = len(polygons) - len(row.polygons)
        if bad:
            strict = self.policy.invalid_masks == "error"
            self._complain_of_shape(row, "polygon of too few points", "has a polygon of fewer than 3 points", strict)
        if len(read) > len(polygons):
            return False
        if not row.polygons:
            return self._no_shape(row, "no mask", "has no polygon of at least 3 points")
        if bad:
            self.tally["polygons of fewer than 3 points left out"] += bad
        return True

    def _read_rle(self, row: _Row, segmentation: Mapping[str, Any]) -> bool:
        try:
            row.rle = checked_rle(segmentation, self.images[row.image].size)["counts"]
        except (ValueError, TypeError) as error:
            self.file.complain("malformed RLE", f"annotation {row.id}", f"annotation {row.id}: {error}")
            return False
        return True

    def _polygon(self, row: _Row, part: Any) -> np.ndarray | None:
        try:
            points = np.asarray(part, np.float64)
        except (TypeError, ValueError, OverflowError):
            points = np.zeros(1)
        if points.ndim != 1 or len(points) % 2 or not (np.abs(points) < FAR).all():
            label = f"annotation {row.id}"
            words = f"{label}: segmentation holds {str(part)[:60]}; expected a polygon as x, y, x, y, ..."
            self.file.complain("malformed polygon", label, words)
            return None
        return points

    def _no_shape(self, row: _Row, kind: str, words: str) -> bool:
        self._complain_of_shape(row, kind, words, self.policy.invalid_masks == "error")
        if self.policy.invalid_masks != "box":
            self.tally["objects without a mask left out"] += 1
            return False
        self.tally["objects without a mask given their box as one"] += 1
        x, y, w, h = row.box
        row.polygons = [np.array([x, y, x + w, y, x + w, y + h, x, y + h])]
        return True

    def _complain_of_shape(self, row: _Row, kind: str, words: str, serious: bool) -> None:
        words = (
            f"annotation {row.id} {words}; correct it, or set invalid_masks: drop (leaves it out) or box (takes the "
            "box as its mask)"
        )
        self.file.complain(kind, f"annotation {row.id}", words, serious=serious)

    def _table(self, pieces: list[Columns]) -> AnnotationTable:
        columns, polygon_starts, polygons, rles = laid_flat(pieces)
        corners = np.concatenate([columns.box[:, :2], columns.box[:, :2] + columns.box[:, 2:]], 1)
        limits = self._sizes[columns.image][:, [1, 0, 1, 0]]
        return AnnotationTable(
            starts=offsets(np.bincount(columns.image, minlength=len(self.images))),
            ids=columns.id,
            classes=columns.class_index,
            crowd=columns.crowd,
            areas=columns.area,
            file_boxes=columns.box,
            boxes=np.clip(corners, 0, limits).astype(np.float32),
            polygon_starts=polygon_starts,
            polygons=polygons,
            rles=rles,
            has_masks=self._has_masks,
        )


def _columns(rows: Sequence[_Row]) -> Columns:
    polygons = [polygon for row in rows for polygon in row.polygons]
    return Columns(
        index=np.array([row.index for row in rows], np.int64),
        id=np.array([row.id for row in rows], np.int64),
        image=np.array([row.image for row in rows], np.int64),
        class_index=np.array([row.class_index for row in rows], np.int64),
        crowd=np.array([row.crowd for row in rows], bool),
        box=np.array([row.box for row in rows], np.float64).reshape(-1, 4),
        area=np.array([row.area for row in rows], np.float64),
        parts=np.array([len(row.polygons) for row in rows], np.int64),
        lengths=np.array([len(polygon) for polygon in polygons], np.int64),
        values=np.concatenate([np.zeros(0), *polygons]),
        rles={place: row.rle for place, row in enumerate(rows) if row.rle},
    )


def _numbers4(box: list[Any]) -> tuple[float, float, float, float]:
    if len(box) != 4:
        return (math.nan,) * 4
    x, y, width, height = map(_number, box)
    return x, y, width, height


def _number(value: Any) -> float:
    """As float; NaN for what is no number, or a whole one beyond float's reach."""
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan


def _area(area: Any, row: _Row) -> float:
    """What the file says, or the area of the mask, or that of the box."""
    if math.isfinite(_number(area)):
        return float(area)
    if row.rle:
        return float(rle_counts(row.rle)[1::2].sum())
    if row.polygons:
        pairs = [p.reshape(-1, 2).T for p in row.polygons]
        return float(sum(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2 for x, y in pairs))
    return row.box[2] * row.box[3]
