"""From rows to columns: each row is checked, by one place for each rule, whatever the rows come from."""

import collections
import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from detkit.data.datasets.image_table import ImageTable
from detkit.data.datasets.keypoints import read_keypoints
from detkit.data.datasets.row_masks import InvalidMasks, MaskColumn, read_areas, read_masks
from detkit.data.datasets.rows import MIN_SIDE, MISSING, Chunk, Row, as_row, row_type
from detkit.data.flat import Ragged
from detkit.data.issues import Issue, Report
from detkit.registry import DataError

InvalidBoxes = Literal["drop", "error"]
CROWD = (0, 1, None)
"""What ``iscrowd`` may be (false and true are equal to 0 and 1): a text "0" would be true."""
CHUNK = 4096
"""Rows that are checked together."""


@dataclasses.dataclass(frozen=True)
class Policy:
    """What is left out.

    Args:
        keep_empty, keep_crowd, invalid_boxes, invalid_masks: see ``CocoInstances``, which has them as options.
        masks: whether annotations should have masks; None: they should if any of them has one.
        min_keypoints: images whose annotations have fewer labelled keypoints in all are left out.
    """

    keep_empty: bool = True
    keep_crowd: bool = True
    invalid_boxes: InvalidBoxes = "drop"
    invalid_masks: InvalidMasks = "error"
    masks: bool | None = None
    min_keypoints: int = 0


@dataclasses.dataclass
class RowReader:
    """Checks rows and gives their columns.

    Args:
        images: when all is read, those that are left.
        classes: category id -> class index, -1 for a category whose objects are left out.
        num_keypoints: how many keypoints an object has; None: as many as the first one has.
        fields, policy, place, report: as for ``AnnotationTable.from_rows``.
        tally: what was left out or changed, in words -> how many.
    """

    images: ImageTable
    classes: Mapping[int, int]
    num_keypoints: int | None
    fields: Collection[str]
    policy: Policy
    place: str
    report: Report
    tally: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def __post_init__(self) -> None:
        self._row_type = row_type(self.fields)
        self._image_index = {self.images.id(i): i for i in range(len(self.images))}
        self._has_masks = bool(self.policy.masks)

    def read(self, rows: Iterable[Any]) -> dict[str, Any]:
        """The columns of the rows that can be used, ordered by image; of rows with the same id, the first.

        Whether a mask is missing is known when one was seen, so rows are gone through twice where the first have none.
        """
        rows = list(rows) if isinstance(rows, Iterator) else rows
        chunks = (chunk for _, chunk in self._chunks(rows))
        if self.policy.masks is None:
            self._has_masks = any(row.segmentation for chunk in chunks for row in chunk if isinstance(row, Row))
        pieces = [self._columns(0, []), *(self._columns(start, chunk) for start, chunk in self._chunks(rows))]
        columns: dict[str, Any] = {
            name: np.concatenate([piece.pop(name) for piece in pieces])
            for name in ("id", "image", "class_index", "crowd", "area", "box", "labelled")
        }
        order = self._first_of_each_id(columns["id"])
        images = columns["image"][order]
        objects = np.bincount(images[~columns["crowd"][order]], minlength=len(self.images)) > 0
        done = "kept" if self.policy.keep_empty else "left out"
        self.tally[f"images without an object {done}"] = int((~objects).sum())
        kept, least = objects | self.policy.keep_empty, self.policy.min_keypoints
        if least:
            poor = np.bincount(images, columns["labelled"][order], len(self.images)) < least
            self.tally[f"images with fewer than {least} keypoints left out"] = int((kept & poor).sum())
            kept &= ~poor
        if not kept.all():
            order, self.images = order[kept[images]], self.images.select(kept)
            columns["image"] = np.cumsum(kept)[columns["image"]] - 1
        order = order[np.argsort(columns["image"][order], kind="stable")]
        columns = {name: column[order] for name, column in columns.items()}
        own = [piece.pop("own") for piece in pieces]
        columns["own"] = {name: self._own_column([v for part in own for v in part[name]], name) for name in self.fields}
        columns["own"] = {name: values[order] for name, values in columns["own"].items()}
        columns["masks"] = MaskColumn.cat(pieces, order) if self._has_masks else None
        columns["keypoints"] = Ragged.cat([piece.pop("keypoints") for piece in pieces], order)
        return columns

    def _first_of_each_id(self, ids: np.ndarray) -> np.ndarray:
        """Which of all read annotations come first with their id, in order; reports the others."""
        first = np.sort(np.unique(ids, return_index=True)[1])
        for id_ in np.delete(ids, first).tolist() if len(first) < len(ids) else ():
            what = f"two annotations have the id {id_}"
            self.report(Issue("annotation id twice", self.place, f"annotation {id_}", what, "give each its own"))
        return first

    def _chunks(self, rows: Iterable[Any]) -> Iterator[tuple[int, list[Any]]]:
        iterator, start = iter(rows), 0
        while chunk := list(itertools.islice(iterator, CHUNK)):
            if {*map(type, chunk)} != {self._row_type}:
                chunk = [as_row(entry, self._row_type) for entry in chunk]
            yield start, chunk
            start += len(chunk)

    def _columns(self, start: int, rows: list[Any]) -> dict[str, Any]:
        chunk = Chunk(rows, start, self.place)
        self._read_ids(chunk)
        self._leave_out_classes_and_crowds(chunk)
        self._read_boxes(chunk)
        if self._has_masks:
            read_masks(chunk, self.images.sizes, self.policy.invalid_masks, self.tally)
        self.num_keypoints = read_keypoints(chunk, self.num_keypoints)
        for name in self.fields:
            lacking = np.array([value is MISSING for value in chunk.values(name)], bool)
            chunk.report(lacking, "malformed entry", f" has no '{name}'", "give every row one")
        for _, issue in sorted(chunk.issues, key=lambda item: item[0]):
            self.report(issue)
        chunk.select(chunk.sound)
        read_areas(chunk, self.images.sizes)
        return {**chunk.columns, "own": {name: chunk.values(name) for name in self.fields}}

    def _own_column(self, values: list[Any], name: str) -> np.ndarray:
        """``(A, ...)`` bool, int64 or float32: the values of a field of one's own. Raises DataError for all else."""
        try:
            column = np.array(values)
            return column.astype({"b": bool, "i": np.int64, "u": np.int64, "f": np.float32}[column.dtype.kind])
        except (ValueError, KeyError):
            what = f"the field '{name}': expected numbers of one shape in all annotations"
            raise DataError(f"{self.place}: {what}") from None

    def _read_ids(self, chunk: Chunk) -> None:
        ids, right_ids = chunk.values_of("id", {int})
        huge = np.array([ok and not -(2**63) <= id_ < 2**63 for id_, ok in zip(ids, right_ids)], bool)
        chunk.report(huge, "malformed entry", lambda i: f": id is {ids[i]}; expected a number of at most 64 bits")
        right_ids &= ~huge
        image_ids, right_images = chunk.values_of("image_id", {int, str})
        category_ids, right_categories = chunk.values_of("category_id", {int})
        image = np.array([self._image_index.get(id_, -1) for id_ in image_ids], np.int64)
        class_index = np.array([self.classes.get(id_, -2) for id_ in category_ids], np.int64)
        known = ", ".join(map(str, sorted(self.classes)[:20])) + (" ..." if len(self.classes) > 20 else "")

        def no_image(i: int) -> str:
            id_ = image_ids[i]
            other = str(id_) if isinstance(id_, int) else int(id_) if id_.isdecimal() and len(id_) < 19 else None
            known = f"; {other!r} is one: write both as a number, or both as text" if other in self._image_index else ""
            return f": image_id {id_!r} is not the id of any of the {len(self.images)} images{known}"

        fix = "remove the annotation, or add its image"
        chunk.report(right_images & (image < 0), "unknown image", no_image, fix)
        chunk.report(
            *(right_categories & (class_index == -2), "unknown category"),
            lambda i: f": category_id {category_ids[i]} is not listed in 'categories' ({known})",
            "correct category_id, or add the category",
        )
        _, has_box = chunk.values_of("bbox", {list})
        chunk.columns |= {
            "id": np.array([id_ if ok else 0 for id_, ok in zip(ids, right_ids)], np.int64),
            "image": image,
            "class_index": class_index,
        }
        chunk.select(right_ids & (image >= 0) & has_box)

    def _leave_out_classes_and_crowds(self, chunk: Chunk) -> None:
        others: np.ndarray = chunk.columns["class_index"] == -1
        flags = chunk.values("iscrowd")
        known = np.array([type(flag) in (bool, int, float, type(None)) and flag in CROWD for flag in flags], bool)
        words, fix = ": iscrowd is {!r:.40}; expected 0, 1, false or true", "write it as a number, without quotes"
        chunk.report(~known, "malformed entry", lambda i: words.format(flags[i]), fix)
        crowd = np.array([ok and bool(flag) for flag, ok in zip(flags, known)], bool)
        crowds = crowd & ~others & (not self.policy.keep_crowd)
        self.tally["objects of other classes left out"] += int(others.sum())
        self.tally["crowds left out"] += int(crowds.sum())
        chunk.columns["crowd"] = crowd
        chunk.select(~(others | crowds))

    def _read_boxes(self, chunk: Chunk) -> None:
        given = Ragged.of_lists(chunk.values("bbox"))
        box, four = np.full((len(chunk), 4), np.nan), given.lengths == 4
        box[four] = given.data[np.repeat(four, given.lengths)].reshape(-1, 4)
        image, drop = chunk.columns["image"], self.policy.invalid_boxes == "drop"
        limits = self.images.sizes[image][:, ::-1].astype(np.float64)
        with np.errstate(all="ignore"):
            corner = box[:, :2] + box[:, 2:]
            first, last = np.maximum(box[:, :2], 0), np.minimum(corner, limits)
            finite = np.isfinite(box).all(1)
            sides = last.astype(np.float32) - first.astype(np.float32)  # as the model will see them
            empty = finite & ~((box[:, 2:] > 0) & (sides > MIN_SIDE)).all(1)
            over = finite & ~empty & (np.maximum(first - box[:, :2], corner - last) > 0.5).any(1)

        def words(i: int, what: str) -> str:
            name, (width, height) = self.images.file_name(int(image[i])), limits[i].astype(int).tolist()
            return f": its bbox {box[i].tolist()} (x, y, width, height) {what} its image ({name}, {width} x {height})"

        chunk.report(
            *(~finite, "box that is not finite"),
            ": bbox is not four finite numbers (x, y, width, height)",
            "write bbox as x, y, width, height in pixels",
        )
        chunk.report(
            *(empty, "box without area", lambda i: words(i, "has no area in")),
            "correct or remove it; invalid_boxes: drop leaves it out, error refuses it",
            "warning" if drop else "error",
        )
        chunk.report(
            *(over, "box over the edge", lambda i: words(i, "reaches over")),
            "none needed, it is cut; if many, check whether boxes are xyxy or of another image size",
            "warning",
        )
        self.tally["boxes without area in their image left out"] += int(empty.sum())
        self.tally["boxes that reached over their image cut"] += int(over.sum())
        chunk.columns["box"] = box
        chunk.select(~(empty & drop))
