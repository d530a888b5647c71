"""What of an image is labelled: regions of every class, and classes that nobody looked for in it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pycocotools.mask as coco_mask

from detkit.data.interfaces import EVERY_CLASS, NEGATIVE, NOT_EXHAUSTIVE


def with_regions(content: Mapping[str, Any]) -> list[Any]:
    """The annotations of a dataset in COCO's form, with crowds for all that is no mistake where it is detected.

    A region of every class is a crowd of each class. A class of which an image has objects without a label
    (``not_exhaustive_category_ids``) gets a crowd over the whole image: there, what is on no object is no mistake.
    """
    ids = [category["id"] for category in content["categories"]]
    rows: list[Any] = []
    for row in content["annotations"]:
        rows += [{**row, "category_id": id_} for id_ in ids] if row.get(EVERY_CLASS) else [row]
    has_masks = all(row.get("segmentation") for row in rows)
    for image in content["images"]:
        height, width = image["height"], image["width"]
        for id_ in sorted({*image.get(NOT_EXHAUSTIVE, ())} & {*ids}):
            keys = {"id": -1, "image_id": image["id"], "category_id": id_, "iscrowd": 1}
            # a detection may reach beyond the image
            row = {**keys, "bbox": [-width, -height, 3 * width, 3 * height], "area": height * width}
            if has_masks:
                row["segmentation"] = coco_mask.frPyObjects(
                    {"size": [height, width], "counts": [0, height * width]}, height, width
                )
            rows.append(row)
    return rows


def verified(content: Mapping[str, Any]) -> dict[Any, set[int]]:
    """Image id -> the ids of the categories that were looked for in it, for images that say so (LVIS).

    These are the classes of its objects and those that it has none of; detections of others do not count.
    """
    out = {image["id"]: {*image[NEGATIVE]} for image in content["images"] if NEGATIVE in image}
    for row in content["annotations"]:
        if row["image_id"] in out:
            out[row["image_id"]].add(row["category_id"])
    return out


def classes_by_frequency(categories: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """LVIS's frequencies of classes (r: rare, c: common, f: frequent) -> the numbers of the classes, from 0."""
    out: dict[str, list[int]] = {}
    for number, category in enumerate(categories):
        if category.get("frequency") in ("r", "c", "f"):
            out.setdefault(category["frequency"], []).append(number)
    return {name: out[name] for name in ("r", "c", "f") if name in out}
