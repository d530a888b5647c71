"""TableDataset: a dataset whose annotations are in an AnnotationTable. A format of one's own is a subclass."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from tabulate import tabulate

from detkit.data.datasets.keypoints import KeypointSpec
from detkit.data.datasets.row_reader import Policy
from detkit.data.datasets.rows import ImageRow, Row
from detkit.data.datasets.table import AnnotationTable, FieldType
from detkit.data.images import check_image, read_image
from detkit.data.interfaces import Dataset, ObjectTable, Record
from detkit.data.issues import Issue, raise_errors
from detkit.registry import DataError
from detkit.utils.memory import no_collection

logger = logging.getLogger(__name__)


class TableDataset(Dataset):
    """A dataset made of rows. A subclass reads its format in ``__init__`` and hands the rows on; the rest is here.

    Args:
        images, rows, categories, class_names, keypoints, policy: see ``AnnotationTable.from_rows``.
        source: the file that the data is from, for messages; empty where there is none.
        image_root: the folder below which the images lie; empty where their names are paths.
        keep_empty: whether images without an object (crowds do not count) are kept.
        check_images: how many image files, evenly spread, are checked; see ``CocoInstances``.

    Attributes:
        table: the annotations.
        tally: what was left out or changed, in words -> how many.
        field_types: fields of one's own that the rows have, and their types.
        report: takes what is wrong with the rows; raises the first error. The doctor puts one in its place that
            collects all issues.

    Raises:
        DataError: a row is wrong, no image is left, or an image fails the check.
    """

    field_types: ClassVar[Mapping[str, FieldType]] = {}
    report: Callable[[Issue], None] = staticmethod(raise_errors)

    def __init__(
        self,
        images: Iterable[ImageRow | Mapping[str, Any]],
        rows: Iterable[Row | Mapping[str, Any]],
        categories: Mapping[int, str],
        *,
        class_names: Sequence[str] | None = None,
        keypoints: Mapping[int, KeypointSpec] | None = None,
        policy: Policy | None = None,
        source: str = "",
        image_root: str = "",
        keep_empty: bool = True,
        check_images: int = 0,
    ):
        super().__init__()
        self.source, self.image_root = source, image_root
        place = source or type(self).__name__
        with no_collection():
            self.table = AnnotationTable.from_rows(
                images,
                rows,
                categories,
                class_names=class_names,
                keypoints=keypoints,
                fields=self.field_types,
                policy=policy,
                place=place,
                report=self.report,
            )
        self.class_names = tuple(name for _, name in self.table.categories)
        self.category_ids = tuple(id_ for id_, _ in self.table.categories)
        if (spec := self.table.keypoint_spec) is not None:
            self.keypoint_names, self.keypoint_flip_pairs, self.skeleton = spec.names, spec.flip_pairs, spec.skeleton
        objects = np.bincount(self.table.image_of()[~self.table.crowd], minlength=len(self.table.images))
        self._images = np.arange(len(objects)) if keep_empty else np.flatnonzero(objects)
        empty, done = int((objects == 0).sum()), "kept" if keep_empty else "left out"
        self.tally = {**self.table.tally, **({f"images without an object {done}": empty} if empty else {})}
        if len(self._images) == 0:
            raise DataError(f"{place}: of its {len(objects)} images none is left{self._left_out()}")
        if check_images < 0:
            raise DataError(f"{type(self).__name__}.check_images: expected 0 or more, got {check_images}")
        chosen = np.linspace(0, len(self._images) - 1, min(check_images, len(self._images))).round().astype(int)
        for index in np.unique(chosen).tolist():
            check_image(self.image_path(index) or "", self.image_size(index))
        if self._left_out():
            logger.warning("%s%s", place, self._left_out())

    def _left_out(self) -> str:
        said = [f"{count} {words}" for words, count in self.tally.items() if not words.endswith("kept")]
        return f": {', '.join(said)}" if said else ""

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return Record(
            image=self.read_image(index),
            image_id=self.image_id(index),
            file_name=self.image_path(index) or self._name(index),
            original_size=self.image_size(index),
            objects=self.table.instances(int(self._images[index])),
        )

    def _name(self, index: int) -> str:
        return self.table.images.file_name(int(self._images[index]))

    def read_image(self, index: int) -> np.ndarray:
        """``(H, W, 3)`` uint8 RGB of the size that the table says; this default reads the image's file."""
        return read_image(os.path.join(self.image_root, self._name(index)), self.image_size(index))

    def image_size(self, index: int) -> tuple[int, int]:
        return self.table.images.size(int(self._images[index]))

    def image_path(self, index: int) -> str | None:
        return os.path.join(self.image_root, self._name(index))

    def image_id(self, index: int) -> int | str:
        return self.table.images.id(int(self._images[index]))

    def objects(self) -> ObjectTable:
        return self.table.objects(self._images)

    def coco(self) -> dict[str, Any]:
        return self.table.coco(self._images)

    def title(self) -> str:
        """What dataset it is: the first line of the summary."""
        return f"{type(self).__name__} {self.source}".strip()

    def summary(self) -> str:
        table, kept = self.table, np.isin(self.table.image_of(), self._images)
        crowd = table.crowd & kept
        counts = np.bincount(table.classes[kept & ~crowd], minlength=len(self.class_names))
        parts = ["boxes only" if table.masks is None else "masks"]
        lines = []
        if self.keypoint_names:
            parts.append(f"{len(self.keypoint_names)} keypoints")
            labelled = sum(
                bool((table.keypoints[row][2::3] > 0).any()) for row in np.flatnonzero(kept & ~crowd).tolist()
            )
            pairs = len(self.keypoint_flip_pairs)
            lines.append(f"keypoints ({', '.join(self.keypoint_names)}; {pairs} left and right) of {labelled} objects")
        return "\n".join(
            [
                self.title(),
                f"{len(self)} images, {counts.sum()} objects ({', '.join(parts)}), {crowd.sum()} crowds",
                *lines,
                *(f"{count} {words}" for words, count in self.tally.items()),
                class_table(self.class_names, counts),
            ]
        )


def class_table(class_names: tuple[str, ...], counts: np.ndarray) -> str:
    """A table of how many objects each class has, in up to three columns of classes."""
    columns = min(3, len(class_names))
    rows = -(-len(class_names) // columns)
    cells: list[list[Any]] = [[name, int(count)] for name, count in zip(class_names, counts)]
    cells += [["", ""]] * (rows * columns - len(cells))
    table = [[cell for c in range(columns) for cell in cells[c * rows + r]] for r in range(rows)]
    return tabulate(table, headers=["class", "objects"] * columns, tablefmt="simple")
