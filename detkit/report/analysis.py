"""What a detector did on a test set, in numbers: scores and thresholds, confusions, sizes, the worst images.

Letters: D detections and G objects of all images, K classes, T thresholds. Crowds, and what lies on them, do not count.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from detkit.evaluation.coco_metrics import GroundTruth
from detkit.evaluation.coco_results import Detections
from detkit.evaluation.errors import KINDS, NONE, NOTHING, Matches, match

THRESHOLDS = np.arange(100) / 100
"""The scores that are tried as thresholds."""
LIMITS = np.array([32, 96]) ** 2
"""COCO's limits between small, medium and large objects, in square pixels."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Right detections, all detections and objects at each threshold.

    Args:
        right, found: ``(..., T)`` detections of at least each of ``THRESHOLDS``.
        objects: ``(...)``.
    """

    right: np.ndarray
    found: np.ndarray
    objects: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """The share of the detections that are right; NaN where there are none."""
        return _share(self.right, self.found)

    @property
    def recall(self) -> np.ndarray:
        """The share of the objects that are found; NaN where there are none."""
        return _share(self.right, np.broadcast_to(self.objects[..., None], self.right.shape))

    @property
    def f1(self) -> np.ndarray:
        """The harmonic mean of the two; NaN where there are no objects."""
        values = _share(2 * self.right, self.found + self.objects[..., None])
        return np.where(self.objects[..., None] > 0, values, np.nan)

    def best(self) -> np.ndarray:
        """``(...)`` the number of the threshold with the highest F1, the middle one of equal ones; -1 where it is 0."""
        f1 = np.nan_to_num(self.f1)
        top = f1.max(-1, keepdims=True)
        equal = (f1 == top) & (top > 0)
        middle = (np.cumsum(equal, -1) > (equal.sum(-1, keepdims=True) - 1) // 2).argmax(-1)
        return np.where(top[..., 0] > 0, middle, -1)


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The matches of detections and objects at an IoU of 0.5, image by image.

    Args:
        task: whether IoUs are of boxes or of masks.
        num_classes: K.
        image_ids: the I images.
        matches: D detections and G objects of all images.
        images: ``(D,)`` the number of each detection's image.
        object_images: ``(G,)`` that of each object.
        object_areas: ``(G,)`` square pixels, as the ground truth gives them.
        max_detections: how many detections of an image and class counted.
    """

    task: Literal["box", "mask"]
    num_classes: int
    image_ids: list[int | str]
    matches: Matches
    images: np.ndarray
    object_images: np.ndarray
    object_areas: np.ndarray
    max_detections: int

    @staticmethod
    def of(
        truth: GroundTruth,
        detections: Mapping[int | str, Detections],
        task: Literal["box", "mask"],
        max_detections: int = 100,
    ) -> "Analysis":
        """From image id -> detections, of which the best ``max_detections`` of each image and class count."""
        rows = rows_by_image(truth.regions, truth.number)
        category_ids = list(truth.class_number)
        parts = [
            match(counted(truth, i, detections.get(i, NOTHING), max_detections), rows[i], category_ids, task)
            for i in rows
        ]
        areas = [float(r.get("area", r["bbox"][2] * r["bbox"][3])) for i in rows for r in rows[i] if not _crowd(r)]
        numbers = np.arange(len(parts))
        empty = Matches(np.zeros(0), *(np.zeros(0, np.int64) for _ in range(6)))
        return Analysis(
            task,
            len(category_ids),
            list(rows),
            Matches.cat([*parts, empty]),
            np.repeat(numbers, [len(part.scores) for part in parts]),
            np.repeat(numbers, [len(part.object_classes) for part in parts]),
            np.array(areas, np.float64),
            max_detections,
        )

    @functools.cached_property
    def class_scores(self) -> Scores:
        """``Scores`` of shape ``(K, T)``."""
        k, t = self.num_classes, len(THRESHOLDS)
        reached = np.searchsorted(THRESHOLDS, self.matches.scores, side="right") - 1
        cells = (self.matches.classes * t + reached)[reached >= 0]
        hits = (self.matches.object != NONE)[reached >= 0]
        right, found = (np.bincount(c, minlength=k * t).reshape(k, t) for c in (cells[hits], cells))
        right, found = (values[:, ::-1].cumsum(1)[:, ::-1] for values in (right, found))
        return Scores(right, found, np.bincount(self.matches.object_classes, minlength=k))

    @property
    def scores(self) -> Scores:
        """``Scores`` of shape ``(T,)``, of all classes together."""
        classes = self.class_scores
        return Scores(classes.right.sum(0), classes.found.sum(0), classes.objects.sum(0))

    @property
    def threshold(self) -> float:
        """The threshold with the best F1 over all classes together; 0.5 where no detection is right at any."""
        best = int(self.scores.best())
        return 0.5 if best < 0 else float(THRESHOLDS[best])

    def confusions(self, threshold: float) -> Counter[tuple[int, int]]:
        """(class of the object, class of the detection) -> how many; K stands for background.

        An object counts once: for the detection that is right about it, else for the best one of another class that is
        on it, else as missed. Detections that are neither are on background.
        """
        kept = self.matches.take(self.matches.scores >= threshold)
        taken = kept.object.copy()
        confused = np.flatnonzero(kept.kind == list(KINDS).index("classification"))
        confused = confused[~np.isin(kept.repaired[confused], taken)]
        confused = confused[np.argsort(-kept.scores[confused], kind="stable")]
        targets, first = np.unique(kept.repaired[confused], return_index=True)
        taken[confused[first]] = targets
        missed = np.delete(kept.object_classes, taken[taken != NONE])
        truth = np.where(taken == NONE, self.num_classes, np.append(kept.object_classes, 0)[taken])
        pairs = [*zip(truth.tolist(), kept.classes.tolist()), *((k, self.num_classes) for k in missed.tolist())]
        return Counter(pairs)

    def found(self, threshold: float) -> np.ndarray:
        """``(G,)`` bool: a detection of at least ``threshold`` is right about it."""
        kept = self.matches.object[self.matches.scores >= threshold]
        return np.isin(np.arange(len(self.object_areas)), kept)

    def sizes(self, threshold: float) -> list[tuple[int, int]]:
        """Objects, and how many of them are found, for small, medium and large ones."""
        size = np.searchsorted(LIMITS, self.object_areas, side="right")
        found = self.found(threshold)
        return [(int((size == n).sum()), int((found & (size == n)).sum())) for n in range(len(LIMITS) + 1)]

    def size_groups(self, threshold: float, most: int = 5) -> list[tuple[float, float, int, int]]:
        """Groups of about as many objects: the roots of their least and greatest area, objects, how many are found."""
        order, found = np.argsort(self.object_areas, kind="stable"), self.found(threshold)
        sides = np.sqrt(self.object_areas)
        groups = [rows for rows in np.array_split(order, most) if len(rows)]
        return [(sides[g[0]].item(), sides[g[-1]].item(), len(g), int(found[g].sum())) for g in groups]

    def mistakes(self, threshold: float) -> np.ndarray:
        """``(I, 2)`` false detections and objects that are not found, image by image."""
        false = (self.matches.object == NONE) & (self.matches.scores >= threshold)
        columns = (self.images[false], self.object_images[~self.found(threshold)])
        return np.stack([np.bincount(column, minlength=len(self.image_ids)) for column in columns], 1)

    def worst(self, threshold: float, most: int) -> list[int]:
        """The numbers of the images with the most mistakes, the worst first; images without any are left out."""
        counts = self.mistakes(threshold).sum(1)
        order = np.argsort(-counts, kind="stable")[:most]
        return order[counts[order] > 0].tolist()


def rows_by_image(rows: Iterable[dict[str, Any]], image_ids: Iterable[int | str]) -> dict[Any, list[dict[str, Any]]]:
    """The annotations of each of these images."""
    found: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    for row in rows:
        if row["image_id"] in found:
            found[row["image_id"]].append(row)
    return found


def counted(truth: GroundTruth, image_id: int | str, found: Detections, most: int) -> Detections:
    """The detections of an image that count: of classes that were looked for, and of each the best ``most``."""
    known = truth.looked_for(image_id)
    if known is None and len(found.scores) <= most:
        return found
    keep, seen, ids = list[int](), Counter[int](), list(truth.class_number)
    for row in np.argsort(-found.scores, kind="stable").tolist():
        k = int(found.classes[row])
        if seen[k] < most and (known is None or ids[k] in known):
            keep.append(row)
            seen[k] += 1
    return found.take(keep)


def _crowd(row: Mapping[str, Any]) -> bool:
    return bool(row.get("iscrowd", 0))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
