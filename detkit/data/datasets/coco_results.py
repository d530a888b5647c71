"""COCO results read again: as a dataset of detections; and the ids of a COCO file, for results to carry."""

import collections
import dataclasses
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from detkit.config import CountOrZero, FilePath, Fraction
from detkit.data.datasets.coco import read_categories
from detkit.data.datasets.coco_file import read_json, read_results
from detkit.data.datasets.image_table import ImageTable
from detkit.data.datasets.row_reader import Policy
from detkit.data.datasets.rows import Row, as_row, row_type
from detkit.data.datasets.table_dataset import TableDataset
from detkit.data.images import DEFAULT_READING, ImageReading
from detkit.data.interfaces import DATASETS
from detkit.data.issues import raise_errors
from detkit.data.paths import data_path
from detkit.registry import DataError


@DATASETS.register()
class CocoResults(TableDataset):
    """Detections as objects: a COCO results file, and the COCO file whose images and categories its ids are of.

    Its ``coco()`` is a COCO file of all the images, also of those without a detection, in which ``score`` stands beside
    each box: to look at, or to correct in a labelling tool. ``record.score`` has the scores.

    Args:
        json_file: the detections, as ``detkit predict --json --annotations`` and evaluations write them; or the folder
            of ``detkit predict --results``, whose ``images.json`` is the ``images_file``.
        images_file: lists images and categories; its annotations, if it has any, are not read.
        image_root: the folder below which the images' ``file_name`` lie.
        class_names: which categories to take, in this order of classes; null for all, in the order of their ids.
        score_thresh: detections that score less are left out.
        check_images: how many image files are checked when the dataset is made, as ``CocoInstances`` does.
        reading: how the images are read: their bit depth, their orientation, whether they may lie elsewhere.

    Raises:
        DataError: as ``CocoInstances``; a detection without a score, or of an image or category that is not listed.
    """

    field_types = {"score": None}  # noqa: RUF012  # as declared

    def __init__(
        self,
        *,
        json_file: FilePath,
        images_file: FilePath,
        image_root: FilePath,
        class_names: tuple[str, ...] | None = None,
        score_thresh: Fraction = 0.0,
        check_images: CountOrZero = 1000,
        reading: ImageReading = DEFAULT_READING,
    ):
        name = type(self).__name__
        json_file = data_path(json_file, f"{name}.json_file", folder=os.path.isdir(os.path.expanduser(json_file)))
        images_file = data_path(images_file, f"{name}.images_file", folder=False)
        image_root = data_path(image_root, f"{name}.image_root", folder=True)
        kind = row_type(self.field_types)
        images, _, entries = read_json(images_file, kind, needs_objects=False)
        categories, keypoints = read_categories(entries, images_file, self.report)
        super().__init__(
            images,
            _Detections(read_results(json_file, kind), kind, score_thresh),
            categories,
            class_names=class_names,
            keypoints=keypoints,
            policy=Policy(invalid_masks="box"),
            source=json_file,
            image_root=image_root,
            check_images=check_images,
            reading=reading,
        )


@dataclasses.dataclass
class _Detections(Iterable[Any]):
    """Rows of a results file as annotations: numbered from 1; a keypoint that has a score is a visible one."""

    rows: Iterable[Any]
    kind: type[Row]
    score_thresh: float

    def __iter__(self) -> Iterator[Any]:
        for number, entry in enumerate(self.rows, 1):
            row = as_row(entry, self.kind)
            if isinstance(row, Row):
                score = getattr(row, "score", None)
                if isinstance(score, int | float) and score < self.score_thresh:
                    continue
                row.id = number
                if isinstance(row.keypoints, list):
                    row.keypoints = [
                        v if i % 3 < 2 or not isinstance(v, int | float) else 2 * (v > 0)
                        for i, v in enumerate(row.keypoints)
                    ]
            yield row


class CocoIds:
    """The ids of a COCO file: of its images by their files' names, of its categories by their names.

    Args:
        json_file: has ``images`` and ``categories``.

    Raises:
        DataError: the file is none, or has an image or a category that is wrong.
    """

    def __init__(self, json_file: str):
        self.json_file = data_path(json_file, "annotations", folder=False)
        images, _, entries = read_json(self.json_file, Row, needs_objects=False)
        self._images = ImageTable.from_rows(images, self.json_file, raise_errors)
        self._categories = read_categories(entries, self.json_file, raise_errors)[0]
        self._by_name = collections.defaultdict[str, list[int]](list)
        for index in range(len(self._images)):
            self._by_name[_parts(self._images.file_name(index))[-1]].append(index)

    def images(self, paths: Iterable[str | os.PathLike[str]]) -> list[int | str | None]:
        """The id of each path's image; None for a path that is none of the file's.

        A path belongs to the ``file_name`` that it ends with; or else, where only one image of the file has that name,
        to that, whatever folders it lies in.

        Raises:
            DataError: several images of the file may be meant, or two paths are one image.
        """
        found: dict[int, str] = {}
        ids: list[int | str | None] = []
        for path in [os.fspath(path) for path in paths]:
            index = self._index(path)
            if index is not None and index in found:
                what = f"{found[index]} and {path} both are image {self._images.id(index)!r}"
                raise DataError(f"{self.json_file}: {what} ({self._images.file_name(index)}); give one of them")
            if index is not None:
                found[index] = path
            ids.append(None if index is None else self._images.id(index))
        return ids

    def has(self, class_names: Iterable[str]) -> bool:
        """Whether each of the classes has a category of its name."""
        return {*class_names} <= {*self._categories.values()}

    def categories(self, class_names: Sequence[str]) -> tuple[int, ...]:
        """The id of each class's category. Raises DataError where one is not there."""
        ids = {name: id_ for id_, name in self._categories.items()}
        missing = [name for name in class_names if name not in ids]
        if missing:
            there = ", ".join([*ids][:20]) + (", ..." if len(ids) > 20 else "")
            what = f"has no category '{missing[0]}', which the model predicts; it has {there}"
            raise DataError(f"{self.json_file}: {what}. Name its categories as the model's classes are named")
        return tuple(ids[name] for name in class_names)

    def _index(self, path: str) -> int | None:
        parts = _parts(os.path.abspath(path))
        named = self._by_name.get(parts[-1], [])
        own = [_parts(self._images.file_name(index)) for index in named]
        fitting = [(len(p), index) for p, index in zip(own, named) if parts[-len(p) :] == p]
        longest = max(fitting, default=(0, 0))[0]
        best = [index for length, index in fitting if length == longest] or named
        if len(best) > 1:
            names = " and ".join(f"{self._images.file_name(i)} (id {self._images.id(i)!r})" for i in best[:2])
            raise DataError(f"{self.json_file}: {path} may be {names}; lay the images out in the folders of the file")
        return best[0] if best else None


def _parts(name: str) -> list[str]:
    return [part for part in unicodedata.normalize("NFC", name).replace("\\", "/").split("/") if part not in ("", ".")]
