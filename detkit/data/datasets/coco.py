"""CocoInstances: any COCO JSON with a folder of images."""

from collections.abc import Mapping
from typing import Any

from detkit.config import CountOrZero, FilePath
from detkit.data.datasets.coco_file import read_json
from detkit.data.datasets.row_masks import InvalidMasks
from detkit.data.datasets.row_reader import InvalidBoxes, Policy
from detkit.data.datasets.rows import is_text, row_type
from detkit.data.datasets.table_dataset import TableDataset
from detkit.data.images import DEFAULT_READING, ImageReading
from detkit.data.interfaces import DATASETS
from detkit.data.issues import Issue, Report
from detkit.data.paths import data_path
from detkit.registry import DataError
from detkit.structures import KeypointSpec


@DATASETS.register()
class CocoInstances(TableDataset):
    """A COCO JSON with a folder of images (Lin et al. 2014; the format of cocodataset.org): boxes, masks, keypoints.

    Masks may be polygons or run-length encodings of either form, mixed as they come; a file without any segmentation
    gives boxes only. Keypoints come with the names and the skeleton of their category; the categories that have
    keypoints must have the same. Category ids need not be contiguous: classes are numbered in the order of the ids.
    The file is checked as it is read, and what is wrong names the file and the annotation.

    A subclass whose ``field_types`` name more keys of the annotations has these as fields, too.

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
        min_keypoints: images whose objects have fewer labelled keypoints in all are left out; for training.
        check_images: how many image files, evenly spread, are checked when the dataset is made (that they are
            there, are images, are whole and have the file's size), at about 0.2 ms each; 0 for none.
        reading: how the images are read: their bit depth, their orientation, whether they may lie elsewhere.

    Raises:
        DataError: a path that does not exist, a file that is not JSON or not COCO, an annotation with an unknown
            category or image, an id given twice, a malformed mask or keypoint, an image that fails the check.
    """

    def __init__(
        self,
        *,
        json_file: FilePath,
        image_root: FilePath,
        class_names: tuple[str, ...] | None = None,
        keep_empty: bool = True,
        keep_crowd: bool = True,
        invalid_boxes: InvalidBoxes = "drop",
        invalid_masks: InvalidMasks = "error",
        min_keypoints: CountOrZero = 0,
        check_images: CountOrZero = 1000,
        reading: ImageReading = DEFAULT_READING,
    ):
        json_file = data_path(json_file, f"{type(self).__name__}.json_file", folder=False)
        image_root = data_path(image_root, f"{type(self).__name__}.image_root", folder=True)
        images, rows, entries = read_json(json_file, row_type(self.field_types))
        categories, keypoints = read_categories(entries, json_file, self.report)
        super().__init__(
            images,
            rows,
            categories,
            class_names=class_names,
            keypoints=keypoints,
            policy=Policy(keep_empty, keep_crowd, invalid_boxes, invalid_masks, min_keypoints=min_keypoints),
            source=json_file,
            image_root=image_root,
            check_images=check_images,
            reading=reading,
        )


def read_categories(entries: list[Any], place: str, report: Report) -> tuple[dict[int, str], dict[int, KeypointSpec]]:
    """Id -> name of the categories, in the order of the ids, and id -> keypoints of those that have some.

    A root category (Roboflow writes one) that only stands above one of its own name is the same class as that one.
    """
    names: dict[int, str] = {}
    keypoints: dict[int, KeypointSpec] = {}
    first: dict[str, int] = {}
    above: dict[int, Any] = {}
    child_of: dict[int, int] = {}
    for i, entry in enumerate(entries):
        id_, name = (entry.get("id"), entry.get("name")) if isinstance(entry, Mapping) else (None, None)
        label = f"category {id_}" if type(id_) is int else f"categories[{i}]"
        if type(id_) is not int or abs(id_) >= 2**63 or not isinstance(name, str) or not is_text(name):
            what = f"{label} is {str(entry)[:60]!r}; expected a mapping with an id (a whole number) and a name"
            report(Issue("malformed entry", place, label, what))
            continue
        if names.get(id_) == name:  # said again: VIA lists the classes once an image
            continue
        if id_ in names:
            report(Issue("category id twice", place, label, f"two categories have the id {id_}", "give each its own"))
            continue
        names[id_], above[id_] = name, entry.get("supercategory")
        other = first.setdefault(name, id_)
        if other != id_ and (above[id_] == name) != (above[other] == name):
            child, root = (id_, other) if above[id_] == name else (other, id_)
            first[name], child_of[root] = child, child
        elif other != id_:
            fix = "rename one, or merge both into one category"
            report(Issue("category name twice", place, label, f"two categories are named '{name}'", fix))
        if entry.get("keypoints"):
            try:
                keypoints[id_] = KeypointSpec.from_coco(entry)
            except ValueError as error:
                raise DataError(f"{place}: category '{name}': {error}") from None
    return dict(
        sorted(names.items(), key=lambda item: (child_of.get(item[0], item[0]), item[0] not in child_of))
    ), keypoints
