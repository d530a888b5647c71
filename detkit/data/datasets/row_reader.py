"""From rows to columns: each row is checked, by one place for each rule, whatever the rows come from."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from detkit.data.datasets.image_table import ImageTable
from detkit.data.datasets.keypoints import read_keypoints
from detkit.data.datasets.row_masks import InvalidMasks, read_areas, read_masks
from detkit.data.datasets.rows import MISSING, Chunk, Row, as_row, row_type
from detkit.data.flat import Ragged
from detkit.data.issues import Issue, Report
from detkit.registry import DataError

InvalidBoxes = Literal["drop", "error"]
CHUNK = 4096
"""Rows that are checked together."""


@dataclasses.dataclass(frozen=True)
class Policy:
    """What happens to annotations that cannot be used.

    Args:
        keep_crowd, invalid_boxes, invalid_masks: see ``CocoInstances``, which has them as options.
        masks: whether annotations should have masks; None: they should if any of them has one.
    """

    keep_crowd: bool = True
    invalid_boxes: InvalidBoxes = "drop"
    invalid_masks: InvalidMasks = "error"
    masks: bool | None = None


class RowReader:
    """Checks rows and gives their columns.

    Args:
        classes: category id -> class index, -1 for a category whose objects are left out.
        num_keypoints: how many keypoints an object has; None: as many as the first one has.
        images, fields, policy, place, report: as for ``AnnotationTable.from_rows``.

    Attributes:
        tally: what was left out or changed, in words -> how many.
        has_masks: whether any row has a mask.
        num_keypoints: how many keypoints an object has; None where no row has any.
    """

    def __init__(
        self,
        images: ImageTable,
        classes: Mapping[int, int],
        num_keypoints: int | None,
        fields: Iterable[str],
        policy: Policy,
        place: str,
        report: Report,
    ):
        self.images, self.classes, self.fields, self.policy = images, classes, tuple(fields), policy
        self.place, self.report, self.num_keypoints = place, report, num_keypoints
        self.tally: collections.Counter[str] = collections.Counter()
        self.has_masks = bool(policy.masks)
        self._row_type, self._image_index = row_type(self.fields), images.index()

    def read(self, rows: Iterable[Any]) -> list[dict[str, Any]]:
        """The columns of the rows that can be used, some thousands to a piece, in the order of the rows.

        Whether a mask is missing is known when one was seen, so rows are gone through twice where the first have none.
        """
        rows = list(rows) if isinstance(rows, Iterator) else rows
        chunks = (chunk for _, chunk in self._chunks(rows))
        if self.policy.masks is None:
            self.has_masks = any(row.segmentation for chunk in chunks for row in chunk if isinstance(row, Row))
        return [self._columns(0, []), *(self._columns(start, chunk) for start, chunk in self._chunks(rows))]

    def first_of_each_id(self, ids: np.ndarray) -> np.ndarray:
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
        if self.has_masks:
            read_masks(chunk, self.images.sizes, self.policy.invalid_masks, self.tally)
        self.num_keypoints = read_keypoints(chunk, self.num_keypoints)
        for name in self.fields:
            lacking = np.array([value is MISSING for value in chunk.values(name)], bool)
            chunk.report(lacking, "malformed entry", f" has no '{name}'", "give every row one")
            chunk.sound &= ~lacking
        for _, issue in sorted(chunk.issues, key=lambda item: item[0]):
            self.report(issue)
        chunk.select(chunk.sound)
        read_areas(chunk)
        return {**chunk.columns, **{name: chunk.values(name) for name in self.fields}}

    def own_column(self, values: list[Any], name: str) -> np.ndarray:
        """``(A, ...)`` bool, int64 or float32: the values of a field of one's own. Raises DataError for all else."""
        kinds: dict[str, Any] = {"b": bool, "i": np.int64, "u": np.int64, "f": np.float32}
        try:
            column = np.array(values)
            return column.astype(kinds[column.dtype.kind])
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
        images, known = len(self.images), ", ".join(map(str, sorted(self.classes)[:20]))
        more = " ..." if len(self.classes) > 20 else ""
        chunk.report(
            *(right_images & (image < 0), "unknown image"),
            lambda i: f": image_id {image_ids[i]!r} is not the id of any of the {images} images",
            "remove the annotation, or add its image",
        )
        chunk.report(
            *(right_categories & (class_index == -2), "unknown category"),
            lambda i: f": category_id {category_ids[i]} is not listed in 'categories' ({known}{more})",
            "correct category_id, or add the category",
        )
        _, has_box = chunk.values_of("bbox", {list})
        chunk.columns |= {
            "id": np.array([id_ if ok else 0 for id_, ok in zip(ids, right_ids)], np.int64),
            "image": image,
            "class_index": class_index,
        }
        chunk.sound &= class_index >= -1
        chunk.select(right_ids & (image >= 0) & has_box)

    def _leave_out_classes_and_crowds(self, chunk: Chunk) -> None:
        others: np.ndarray = chunk.columns["class_index"] == -1
        flags, right = chunk.values_of("iscrowd", {bool, int, float, type(None)})  # "0" or "False" would be true
        chunk.sound &= right
        crowd = np.array(list(map(bool, flags)), bool)
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
            empty = finite & ~((box[:, 2:] > 0) & (last > first)).all(1)
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
        chunk.sound &= finite & ~empty
        chunk.select(~(empty & drop))
