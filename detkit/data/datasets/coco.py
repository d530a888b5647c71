"""CocoInstances: any COCO JSON with a folder of images."""

import collections
import logging
import os
from typing import Any

import numpy as np

from detkit.data.datasets.annotations import class_table, coco_categories
from detkit.data.datasets.coco_annotations import AnnotationReader, InvalidBoxes, InvalidMasks, Policy
from detkit.data.datasets.coco_json import CocoFile
from detkit.data.flat import Texts
from detkit.data.images import check_image, read_image
from detkit.data.interfaces import DATASETS, Dataset, ObjectTable, Record
from detkit.data.paths import data_path
from detkit.registry import DataError
from detkit.utils.collector import no_collection

logger = logging.getLogger(__name__)


@DATASETS.register()
class CocoInstances(Dataset):
    """A COCO instances JSON with a folder of images (Lin et al. 2014; the format of cocodataset.org).

    Masks may be polygons or run-length encodings of either form, mixed as they come; a file without any segmentation
    gives boxes only. Category ids need not be contiguous: classes are numbered in the order of the ids. The file is
    checked as it is read, and what is wrong names the file and the annotation.

    Args:
        json_file: the annotations.
        image_root: the folder below which the images' ``file_name`` lie.
        class_names: which categories to take, in this order of classes; null for all, in the order of their ids. Give
            a test set the training set's names where its file lists them otherwise.
        keep_empty: whether images without an object (crowds do not count) are kept. In training they are backgrounds.
        keep_crowd: whether crowd regions are kept. They are never targets, but evaluation forgives what lies on them.
        invalid_boxes: what happens to a box without area in its image: drop (left out and counted) or error.
        invalid_masks: what happens to an annotation without segmentation where others have one, and to a polygon of
            fewer than 3 points: error, drop (left out and counted) or box (its box becomes its mask, counted).
        check_images: how many image files, evenly spread, are looked at when the dataset is made (that they are
            there, are images, are whole and have the file's size), at about 0.2 ms each; 0 for none.

    Raises:
        DataError: a path that does not exist, a file that is not JSON or not COCO, an annotation with an unknown
            category or image, an id given twice, a malformed shape, an image that fails the check.
    """

    def __init__(
        self,
        *,
        json_file: str,
        image_root: str,
        class_names: tuple[str, ...] | None = None,
        keep_empty: bool = True,
        keep_crowd: bool = True,
        invalid_boxes: InvalidBoxes = "drop",
        invalid_masks: InvalidMasks = "error",
        check_images: int = 1000,
    ):
        super().__init__()
        self.json_file = data_path(json_file, "CocoInstances.json_file", folder=False)
        self.image_root = data_path(image_root, "CocoInstances.image_root", folder=True)
        with no_collection():
            file = self._load()
            self.class_names, classes = file.classes(class_names)
            images = file.images()
            reader = AnnotationReader(file, images, classes, Policy(keep_crowd, invalid_boxes, invalid_masks))
            self._table = reader.read()
        self._tally: collections.Counter[str] = reader.tally

        objects = np.bincount(self._table.image_of()[~self._table.crowd], minlength=len(images))
        self._images = np.arange(len(images)) if keep_empty else np.flatnonzero(objects)
        self._tally["images without an object " + ("kept" if keep_empty else "left out")] = int((objects == 0).sum())
        if len(self._images) == 0:
            raise file.error(f"of its {len(images)} images none is left{self._left_out()}")
        ids = [image.id for image in images]
        self._ids = np.array(ids, np.int64) if isinstance(ids[0], int) else Texts.of(map(str, ids))
        self._file_names = Texts.of(image.file_name for image in images)
        self._sizes = np.array([image.size for image in images], np.int64)
        self._check_images(check_images)
        if self._left_out():
            logger.warning("%s%s", self.json_file, self._left_out())

    def _load(self) -> CocoFile:
        """The file, with a report that stops at the first fault; an examiner's class reports otherwise."""
        return CocoFile.load(self.json_file)

    def _check_images(self, count: int) -> None:
        if count < 0:
            raise DataError(f"CocoInstances.check_images: expected 0 or more, got {count}")
        count = min(count, len(self))
        for index in np.unique(np.linspace(0, len(self) - 1, count).round().astype(int)):
            check_image(self._path(self._images[index]), self.image_size(int(index)))

    def _path(self, image: int) -> str:
        return os.path.join(self.image_root, self._file_names[image])

    def _left_out(self) -> str:
        said = [f"{count} {words}" for words, count in self._tally.items() if count and not words.endswith("kept")]
        return f": {', '.join(said)}" if said else ""

    def _id(self, image: int) -> int | str:
        return int(self._ids[image]) if isinstance(self._ids, np.ndarray) else self._ids[image]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        image = int(self._images[index])
        path = self._path(image)
        return self._table.record(image, read_image(path, self.image_size(index)), self._id(image), path)

    def image_size(self, index: int) -> tuple[int, int]:
        """``(height, width)``, as the JSON gives it."""
        height, width = self._sizes[self._images[index]]
        return int(height), int(width)

    def image_path(self, index: int) -> str:
        """The image's file."""
        return self._path(int(self._images[index]))

    def objects(self) -> ObjectTable:
        """All annotations in flat arrays."""
        return self._table.objects(self._images, self._sizes)

    def coco(self) -> dict[str, Any]:
        """The ground truth in COCO's form; boxes, areas and shapes as the file gives them."""
        images, annotations = [], []
        for image in self._images.tolist():
            size = (int(self._sizes[image][0]), int(self._sizes[image][1]))
            names = {"file_name": self._file_names[image], "height": size[0], "width": size[1]}
            images.append({"id": self._id(image), **names})
            annotations += self._table.coco_entries(image, self._id(image), size)
        categories = coco_categories(self.class_names)
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}

    def summary(self) -> str:
        """Images, objects of each class, what was left out or changed and why."""
        kept = np.isin(self._table.image_of(), self._images)
        crowd = self._table.crowd & kept
        counts = np.bincount(self._table.classes[kept & ~crowd], minlength=len(self.class_names))
        shapes = "masks" if self._table.has_masks else "boxes only"
        lines = [
            f"CocoInstances {self.json_file}",
            f"{len(self)} images, {counts.sum()} objects ({shapes}), {crowd.sum()} crowds",
            *(f"{count} {words}" for words, count in self._tally.items() if count),
            class_table(self.class_names, counts),
        ]
        return "\n".join(lines)
