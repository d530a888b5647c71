"""COCO's results form: a list with one dict for each detection, and the same as columns."""

import contextlib
import dataclasses
import json
import operator
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkit.structures import Boxes, Instances


@dataclasses.dataclass(frozen=True)
class Detections:
    """N detections of one image as columns: a tenth of the memory of their rows, and sent between processes as it is.

    Args:
        boxes: ``(N, 4)`` float64 x, y, width, height.
        scores: ``(N,)`` float64.
        classes: ``(N,)`` int64.
        image_size: ``(height, width)``.
        masks: the counts of each compressed RLE; None without masks.
        keypoints: ``(N, P, 3)`` x, y and score, the centre of the first pixel at 0 as in COCO's files; None without.
        num_cut: how many more the model's limit on their number has cut off.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    image_size: tuple[int, int]
    masks: list[str] | None
    keypoints: np.ndarray | None = None
    num_cut: int = 0

    @staticmethod
    def of(instances: Instances, num_cut: int = 0) -> "Detections":
        """Takes ``boxes``, ``scores``, ``classes`` and, where there are any, ``masks`` and ``keypoints``."""
        return Detections(
            np.array(xywh(instances.boxes), np.float64).reshape(-1, 4),
            np.array(instances.scores.tolist(), np.float64),
            np.array(instances.classes.tolist(), np.int64),
            instances.image_size,
            [rle["counts"] for rle in instances.masks.rle()] if "masks" in instances else None,
            instances.keypoints.to("cpu").numpy() - [0.5, 0.5, 0] if "keypoints" in instances else None,
            num_cut,
        )

    def take(self, rows: Sequence[int] | np.ndarray) -> "Detections":
        """Some of them."""
        columns = {name: getattr(self, name)[rows] for name in ("boxes", "scores", "classes")}
        masks = None if self.masks is None else [self.masks[row] for row in rows]
        return dataclasses.replace(
            self, **columns, masks=masks, keypoints=None if self.keypoints is None else self.keypoints[rows]
        )

    def rows(self, image_id: int | str, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """See ``coco_results``."""
        ids = (self.classes + 1 if category_ids is None else np.array(category_ids)[self.classes]).tolist()
        columns = zip(self.boxes.tolist(), self.scores.tolist(), ids)
        rows: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": i, "bbox": b, "score": s} for b, s, i in columns
        ]
        for row, counts in zip(rows, self.masks or ()):
            row["segmentation"] = {"size": list(self.image_size), "counts": counts}
        for row, points in zip(rows, () if self.keypoints is None else self.keypoints):
            row["keypoints"] = points.ravel().tolist()
        return rows


def coco_results(
    image_id: int | str, instances: Instances, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """The detections of one image as JSON-ready COCO results.

    Args:
        image_id: what stands in ``image_id`` of every row: a text, or a whole number of any kind.
        instances: ``boxes``, ``scores``, ``classes`` and, where there are any, ``masks`` and ``keypoints``, in the
            pixels of the file.
        category_ids: the K ids of the classes (``Dataset.category_ids``); None: class index + 1.

    Returns:
        One dict a detection, in the order of the instances: ``image_id``, ``category_id``, ``bbox`` (x, y, width,
        height), ``score`` and, where there are any, ``segmentation`` (compressed RLE) and ``keypoints`` (x, y and score
        of each point in turn).

    Raises:
        ValueError: the id is neither.
    """
    if not isinstance(image_id, str):
        try:
            image_id = operator.index(image_id)  # numpy's numbers are none of JSON's
        except TypeError:
            raise ValueError(f"image_id: expected a whole number or a text, got {image_id!r:.100}") from None
    return Detections.of(instances).rows(image_id, category_ids)


def xywh(boxes: Boxes) -> list[list[float]]:
    """COCO's form of boxes: x, y, width, height. The widths are subtracted in double precision, so exactly."""
    corners = boxes.tensor.detach().cpu().double()
    corners[:, 2:] -= corners[:, :2]
    return corners.tolist()


class RowFile:
    """A JSON list that grows, and is whole whenever nothing is being written. Raises OSError with the file's name."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"[]")
        self.path, self.end = path, 1

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Appends rows."""
        text = ",\n".join(map(json.dumps, rows))
        if not text:
            return
        content = f"{',' if self.end > 1 else ''}\n{text}".encode()
        try:
            with open(self.path, "r+b") as file:
                file.seek(self.end)
                file.write(content + b"]")
        except OSError as error:  # a full disk: what was there before is kept
            with contextlib.suppress(OSError), open(self.path, "r+b") as file:
                file.truncate(self.end)
                file.seek(self.end)
                file.write(b"]")
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self.end += len(content)
