"""TableDataset: a dataset whose annotations are in an AnnotationTable. A format of one's own is a subclass."""

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from tabulate import tabulate

from detkit.data.datasets.row_reader import Policy
from detkit.data.datasets.rows import ImageRow, Row
from detkit.data.datasets.table import AnnotationTable, FieldType
from detkit.data.file_names import written_otherwise
from detkit.data.images import DEFAULT_READING, ImageReading, check_image, read_image
from detkit.data.interfaces import Dataset, ObjectTable, Record
from detkit.data.issues import Issue, Report, raise_errors
from detkit.data.paths import leaves_folder
from detkit.data.samplers import evenly_spread
from detkit.registry import DataError
from detkit.structures import KeypointSpec
from detkit.utils.memory import no_collection
from detkit.utils.tables import side_by_side
from detkit.utils.words import amount, and_others

logger = logging.getLogger(__name__)


class TableDataset(Dataset):
    """A dataset made of rows. A subclass reads its format in ``__init__`` and hands the rows on; the rest is here.

    Args:
        images, rows, categories, class_names, keypoints, policy: as ``AnnotationTable.from_rows`` takes them.
        source: the file that the data is from, for messages; empty where there is none.
        image_root: the folder below which the images lie; empty where their names are paths.
        check_images: how many image files, evenly spread, are checked; see ``CocoInstances``.
        reading: how they are read.

    Attributes:
        table: the annotations.
        field_types: fields of one's own that the rows have, and their types.
        report: takes what is wrong with the rows; raises the first error. The doctor puts one in its place that
            collects all issues.

    Raises:
        DataError: a row is wrong, no image is left, or an image fails the check.
    """

    field_types: ClassVar[Mapping[str, FieldType]] = {}
    report: Report = staticmethod(raise_errors)

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
        check_images: int = 0,
        reading: ImageReading = DEFAULT_READING,
    ):
        super().__init__()
        self.source, self.image_root, self.reading = source, image_root, reading
        place = source or type(self).__name__
        with no_collection():
            self.table = AnnotationTable.from_rows(
                images if reading.outside_root or not image_root else self._inside(images),
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
            self.keypoint_sigmas = spec.sigmas
        said = ", ".join(f"{count} {words}" for words, count in self.table.tally.items() if words[-4:] != "kept")
        if not len(self.table.images):
            raise DataError(f"{place}: of its images none is left: {said or 'it has none'}")
        self._files = self._written_otherwise(place)
        chosen = evenly_spread(len(self), check_images)
        odd: dict[str, list[Issue]] = {}
        wrong: list[tuple[str, Issue]] = []
        for index in chosen:
            try:
                self.check_image(index, lambda issue: odd.setdefault(issue.kind, []).append(issue))
            except Issue as issue:
                wrong.append((self.table.images.file_name(index), issue))
        if wrong:
            (_, error), *further = wrong
            fix = and_others(error.fix, [name for name, issue in further if issue.kind == error.kind])
            raise Issue(error.kind, error.place, error.entry, error.what, fix, source=error.source)
        for kind, (first, *others) in odd.items():
            logger.warning(
                "%s: of %d checked images %d are odd: %s. The first: %s",
                *(place, len(chosen), 1 + len(others), kind, first),
            )
        if said:
            logger.warning("%s: %s", place, said)

    def _inside(self, images: Iterable[ImageRow | Mapping[str, Any]]) -> Iterator[ImageRow | Mapping[str, Any]]:
        """Those whose file is below ``image_root``; a stranger's file must not choose what else is read."""
        for row in images:
            name = row.get("file_name") if isinstance(row, Mapping) else getattr(row, "file_name", None)
            if isinstance(name, str) and leaves_folder(self.image_root, name):
                what = f"the file name '{name[:200]}' leads out of the folder of images, '{self.image_root}'"
                fix = f"correct it, or set the dataset's reading.outside_root to true if you trust {self.source}"
                self.report(Issue("image outside the folder", self.source, f"image '{name[:200]}'", what, fix))
            else:
                yield row

    def __len__(self) -> int:
        return len(self.table.images)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        name = self.image_path(index) or self.table.images.file_name(index)
        record = self.table.record(index, self.read_image(index), name)
        maps = self.maps(index)
        return dataclasses.replace(record, maps=maps) if maps else record

    def read_image(self, index: int) -> np.ndarray:
        """``(H, W, 3)`` uint8 RGB of the size that the table says; this default reads the image's file."""
        return read_image(self.image_path(index) or "", self.image_size(index), self.reading)

    def check_image(self, index: int, report: Report) -> None:
        """Raises DataError where an image cannot be read and reports what is odd; without decoding all of it."""
        check_image(self.image_path(index) or "", self.image_size(index), self.reading, report)

    def image_size(self, index: int) -> tuple[int, int]:
        return self.table.images.size(index)

    def image_path(self, index: int) -> str | None:
        return self._files.get(index) or os.path.join(self.image_root, self.table.images.file_name(index))

    def _written_otherwise(self, place: str) -> dict[int, str]:
        """The files of images whose names are written otherwise; all are looked at if one of a thousand is."""
        names = self.table.images.file_name

        def find(index: int) -> str | None:
            there = not self.image_root or os.path.exists(os.path.join(self.image_root, names(index)))
            return None if there else written_otherwise(self.image_root, names(index))

        if not any(map(find, evenly_spread(len(self), 1000))):
            return {}
        found = {index: path for index in range(len(self)) if (path := find(index))}
        index, path = next(iter(found.items()))
        what = "%s: %d file names are written otherwise than the files, which are taken: %r is %r, for one"
        logger.warning(what, place, len(found), names(index), os.path.relpath(path, self.image_root))
        return found

    def image_id(self, index: int) -> int | str:
        return self.table.images.id(index)

    def objects(self) -> ObjectTable:
        return self.table.objects()

    def coco(self) -> dict[str, Any]:
        return self.table.coco()

    def title(self) -> str:
        """What dataset it is: the first line of the summary."""
        return f"{type(self).__name__} {self.source}".strip()

    def summary(self) -> str:
        table, rows = self.table, np.flatnonzero(~self.table.crowd)
        counts = np.bincount(table.classes[rows], minlength=len(self.class_names))
        parts, lines = ["boxes only" if table.masks is None else "masks"], []
        if self.keypoint_names:
            parts.append(f"{len(self.keypoint_names)} keypoints")
            labelled = sum(bool(table.keypoints[row][2::3].any()) for row in rows.tolist())
            pairs = len(self.keypoint_flip_pairs)
            lines.append(f"keypoints ({', '.join(self.keypoint_names)}; {pairs} left and right) of {labelled} objects")
        cells = [[name, count] for name, count in zip(self.class_names, counts.tolist())]
        if self.semantic_names:
            lines.append(f"semantic maps of {len(self.semantic_names)} classes ({', '.join(self.semantic_names)})")
        return "\n".join(
            [
                self.title(),
                f"{amount(len(self), 'image')}, {amount(len(rows), 'object')} ({', '.join(parts)}), "
                + amount(table.crowd.sum(), "crowd"),
                *lines,
                *(f"{count} {words}" for words, count in table.tally.items()),
                tabulate(*side_by_side(["class", "objects"], cells, 3), tablefmt="simple"),
            ]
        )
