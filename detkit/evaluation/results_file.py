"""Detections that were made before, or elsewhere, read from COCO results."""

import math
import os
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask

from detkit.data.datasets.coco_file import read_results
from detkit.data.datasets.row_masks import box_around
from detkit.data.datasets.rows import as_row, row_type
from detkit.evaluation.coco_metrics import GroundTruth
from detkit.evaluation.coco_results import Detections
from detkit.registry import DataError
from detkit.structures.rle import as_rle, checked_rle


def read_detections(path: str | os.PathLike[str], truth: GroundTruth) -> dict[int | str, Detections]:
    """Image id -> the detections of a COCO results file, or of a folder of ``detkit predict --results``.

    Masks and keypoints are kept where every detection has some; one without a box gets that of its mask, or of its
    keypoints. Images without a detection are there, too.

    Raises:
        DataError: the file cannot be read, or a detection in it: it is of an image or a category that is not of the
            ground truth, has no box or score, or a mask of another size than its image.
    """
    path, kind = os.fspath(path), row_type(["score"])
    num_points = 0 if truth.keypoints is None else len(truth.keypoints.names)
    sizes = dict(zip(truth.number, sorted(truth.images, key=lambda image: image["id"])))
    columns: dict[Any, list[tuple[Any, ...]]] = {image_id: [] for image_id in truth.number}
    for number, entry in enumerate(read_results(path, kind)):
        row = as_row(entry, kind)
        try:
            height, width = (sizes[row.image_id][side] for side in ("height", "width"))
            shape = _mask(row.segmentation, height, width, f"{path}: entry {number} (from 0)")
            points, given = None, None
            if num_points and row.keypoints is not None:
                points = np.array(row.keypoints, np.float64).reshape(num_points, 3)
                given = _extent(points) if shape is None else None
            box = [float(v) for v in (row.bbox if isinstance(row.bbox, list) else given or coco_mask.toBbox(shape))]
            values = (box, float(row.score), truth.class_number[row.category_id] - 1)
            numbers = (*box, values[1], *(() if points is None else points.flat))
            if len(box) != 4 or not all(map(math.isfinite, numbers)):
                raise ValueError
        except DataError:
            raise
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
            raise DataError(
                f"{path}: entry {number} (from 0), {str(entry)[:120]}, is no detection on the test set: expected an"
                " image_id and a category_id of its own, a score, and a bbox, a segmentation or keypoints. Detections"
                " carry the ids of a COCO file by detkit predict --annotations FILE"
            ) from None
        columns[row.image_id].append((*values, shape, points))
    found = [row for rows in columns.values() for row in rows]
    masks, keypoints = (bool(found) and all(row[i] is not None for row in found) for i in (3, 4))
    return {
        image_id: Detections(
            np.array([box for box, *_ in rows], np.float64).reshape(-1, 4),
            np.array([score for _, score, *_ in rows], np.float64),
            np.array([k for _, _, k, *_ in rows], np.int64),
            (sizes[image_id]["height"], sizes[image_id]["width"]),
            [shape["counts"].decode() for *_, shape, _ in rows] if masks else None,
            np.reshape([points for *_, points in rows], (len(rows), num_points, 3)) if keypoints else None,
        )
        for image_id, rows in columns.items()
    }


def _mask(segmentation: Any, height: int, width: int, place: str) -> Any:
    """The mask as a compressed RLE; None without one.

    Raises:
        DataError: an RLE is not of the image's size.
        ValueError: there is no polygon; one with a corner far outside would end the process in pycocotools.
    """
    if not segmentation:
        return None
    if not isinstance(segmentation, dict):
        if box_around(segmentation, (height, width)) is None:
            raise ValueError
        return as_rle(segmentation, (height, width))
    try:
        return checked_rle(segmentation, (height, width))
    except ValueError as error:
        raise DataError(f"{place}: {error}; write masks in the pixels of the image's file") from None


def _extent(points: np.ndarray) -> list[float]:
    """x, y, width and height of the box around ``(P, 3)`` points."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    return [*low.tolist(), *(high - low).tolist()]
