"""AnnotationTable: all annotations of a dataset in flat arrays, made of rows or columns."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkit.data.datasets.classes import choose_classes, common_keypoints
from detkit.data.datasets.image_table import ImageTable
from detkit.data.datasets.keypoints import keypoint_field
from detkit.data.datasets.row_masks import MaskColumn
from detkit.data.datasets.row_reader import Policy, RowReader
from detkit.data.datasets.rows import ImageRow, Row
from detkit.data.flat import Ragged, offsets
from detkit.data.interfaces import ObjectTable, Record
from detkit.data.issues import Report, raise_errors
from detkit.structures import Boxes, Instances, KeypointSpec

FieldType = Callable[[Tensor], Any] | None
"""Makes a field of the ``(n, ...)`` values of n objects, such as a class with ``transform``; None: the tensor is it."""


@dataclasses.dataclass(frozen=True)
class AnnotationTable:
    """A annotations of I images, ordered by image. ``from_rows`` and ``from_columns`` make one.

    Args:
        images: the images.
        categories: ``(id, name)`` of each class.
        starts: ``(I + 1,)``; image i has the rows ``starts[i]`` to ``starts[i + 1] - 1``.
        ids: ``(A,)`` int64.
        classes: ``(A,)`` int64, 0..K-1.
        crowd: ``(A,)`` bool.
        areas: ``(A,)`` float64 square pixels, as they are given.
        given_boxes: ``(A, 4)`` float64 x, y, width, height, as they are given.
        boxes: ``(A, 4)`` float32 xyxy, cut to the image.
        masks: the masks; None where there are boxes only.
        keypoints: x, y, visibility of each, float64, as they are given; a row without any is empty.
        keypoint_spec: what the keypoints are; None without keypoints.
        own: ``(A, ...)`` values and the type of each field of one's own.
        tally: what was left out or changed when the table was made, in words -> how many.
    """

    images: ImageTable
    categories: tuple[tuple[int, str], ...]
    starts: np.ndarray
    ids: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    given_boxes: np.ndarray
    boxes: np.ndarray
    masks: MaskColumn | None
    keypoints: Ragged
    keypoint_spec: KeypointSpec | None
    own: Mapping[str, tuple[np.ndarray, FieldType]]
    tally: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def from_rows(
        images: Iterable[ImageRow | Mapping[str, Any]],
        rows: Iterable[Row | Mapping[str, Any]],
        categories: Mapping[int, str],
        *,
        class_names: Sequence[str] | None = None,
        keypoints: Mapping[int, KeypointSpec] | None = None,
        fields: Mapping[str, FieldType] | None = None,
        policy: Policy | None = None,
        place: str = "annotations",
        report: Report = raise_errors,
    ) -> "AnnotationTable":
        """A table of rows in COCO's words, in any order.

        Args:
            images: ``ImageRow`` or mappings like it.
            rows: ``Row`` or mappings like it; what does not belong into a table is refused with a message.
            categories: id -> name, in the order of the classes.
            class_names: which categories are the classes, in this order; objects of others are left out. None: all.
            keypoints: category id -> what its keypoints are; None where that is not known, or where there are none.
            fields: fields of one's own: name -> its type, which gets the values of an image's objects as a tensor. They
                are in ``record.objects`` and in the target then.
            policy: what is left out.
            place: the file, for messages.
            report: takes what is wrong; where it returns, the row is left out.

        Raises:
            DataError: what ``report`` raises, an ``Issue`` with place and id of the first row that is wrong; there is
                no category, or a class name is none of theirs; two classes have different keypoints.
        """
        image_table = ImageTable.from_rows(images, place, report)
        classes, class_index = choose_classes(categories, class_names, place)
        spec = common_keypoints(classes, keypoints or {}, place)
        num_keypoints = None if spec is None else len(spec.names)
        reader = RowReader(image_table, class_index, num_keypoints, fields or {}, policy or Policy(), place, report)
        column = reader.read(rows)
        image_table = reader.images
        if spec is None and reader.num_keypoints is not None:
            spec = KeypointSpec(tuple(map(str, range(reader.num_keypoints))))
        limits = image_table.sizes[column["image"]][:, [1, 0, 1, 0]]
        corners = np.concatenate([column["box"][:, :2], column["box"][:, :2] + column["box"][:, 2:]], 1)
        return AnnotationTable(
            images=image_table,
            categories=classes,
            starts=offsets(np.bincount(column["image"], minlength=len(image_table))),
            ids=column["id"],
            classes=column["class_index"],
            crowd=column["crowd"],
            areas=column["area"],
            given_boxes=column["box"],
            boxes=np.clip(corners, 0, limits).astype(np.float32),
            masks=column["masks"],
            keypoints=column["keypoints"],
            keypoint_spec=spec,
            own={name: (values, (fields or {})[name]) for name, values in column["own"].items()},
            tally={words: count for words, count in reader.tally.items() if count},
        )

    @staticmethod
    def from_columns(
        images: Iterable[ImageRow | Mapping[str, Any]],
        columns: Mapping[str, Sequence[Any] | np.ndarray],
        categories: Mapping[int, str],
        **options: Any,
    ) -> "AnnotationTable":
        """As ``from_rows``, whose options it takes, from a column of values for each of a row's keys."""
        rows = (dict(zip(columns, values)) for values in zip(*columns.values(), strict=True))
        return AnnotationTable.from_rows(images, rows, categories, **options)

    def rows(self, image: int) -> slice:
        """The rows of an image."""
        return slice(int(self.starts[image]), int(self.starts[image + 1]))

    def record(self, image: int, pixels: np.ndarray, file_name: str) -> Record:
        """An image and its annotations as fields, in memory of their own."""
        rows, size = self.rows(image), self.images.size(image)
        columns = {"boxes": self.boxes, "classes": self.classes, "crowd": self.crowd, "annotation_ids": self.ids}
        columns |= {name: values for name, (values, _) in self.own.items()}
        fields: dict[str, Any] = {name: torch.from_numpy(column[rows].copy()) for name, column in columns.items()}
        fields["boxes"] = Boxes(fields["boxes"])
        if self.masks is not None:
            fields["masks"] = self.masks.for_rows(range(rows.start, rows.stop), size, self.boxes, self.crowd)
        if self.keypoint_spec is not None:
            fields["keypoints"] = keypoint_field(self.keypoints, rows, self.keypoint_spec)
        for name, (_, kind) in self.own.items():
            fields[name] = fields[name] if kind is None else kind(fields[name])
        return Record(pixels, self.images.id(image), file_name, size, Instances(size, **fields))

    def objects(self) -> ObjectTable:
        """The annotations without masks, keypoints and fields of one's own."""
        images = np.repeat(np.arange(len(self.images)), np.diff(self.starts))
        sizes, extents = self.images.sizes[images], np.full((len(self), 4), np.nan)
        if self.masks is not None:
            extents = np.clip(self.masks.extents(sizes), 0, sizes[:, [1, 0, 1, 0]])
        return ObjectTable(images, self.ids, self.classes, self.crowd, self.boxes, extents.astype(np.float32))

    def coco(self) -> dict[str, Any]:
        """The images and their annotations in COCO's form, with ids, boxes, areas and masks as they were given."""
        content: dict[str, Any] = {"info": {}, "images": [], "annotations": [], "categories": []}
        for image in range(len(self.images)):
            height, width = self.images.size(image)
            names = {"file_name": self.images.file_name(image), "height": height, "width": width}
            content["images"].append({"id": self.images.id(image), **names})
            rows = self.rows(image)
            content["annotations"] += [self._coco_entry(row, image) for row in range(rows.start, rows.stop)]
        keypoints = self.keypoint_spec.coco() if self.keypoint_spec else {}
        content["categories"] = [{"id": id_, "name": name, **keypoints} for id_, name in self.categories]
        return content

    def _coco_entry(self, row: int, image: int) -> dict[str, Any]:
        entry = {
            "id": int(self.ids[row]),
            "image_id": self.images.id(image),
            "category_id": self.categories[int(self.classes[row])][0],
            "bbox": self.given_boxes[row].tolist(),
            "area": float(self.areas[row]),
            "iscrowd": int(self.crowd[row]),
        }
        if self.masks is not None:
            entry["segmentation"] = self.masks.segmentation(row, self.images.size(image))
        if len(self.keypoints[row]):
            entry["num_keypoints"] = int((self.keypoints[row][2::3] > 0).sum())
            entry["keypoints"] = self.keypoints[row].tolist()
        return {name: values[row].tolist() for name, (values, _) in self.own.items()} | entry
