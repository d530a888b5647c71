"""DetectionErrors: which kinds of mistakes a detector makes, and the AP that each kind costs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pycocotools.mask as coco_mask
from tabulate import tabulate

from detkit.config import Fraction
from detkit.data.interfaces import Dataset
from detkit.evaluation.coco_results import Detections
from detkit.evaluation.interfaces import EVALUATORS, Evaluator
from detkit.evaluation.labelled import verified, with_regions
from detkit.registry import DataError
from detkit.structures import Prediction, Sample
from detkit.structures.rle import as_rle
from detkit.utils.distributed import gather_object, is_main

KINDS = {
    "classification": "on an object, of another class",
    "localisation": "of the right class, but not well on its object",
    "both": "near an object of another class",
    "duplicate": "on an object that has a better one",
    "background": "on nothing",
    "missed": "objects without a detection",
}
FOREGROUND, BACKGROUND = 0.5, 0.1
"""IoU from which a detection is on an object, and up to which it is on nothing."""
NONE = -1


@dataclasses.dataclass
class Matches:
    """D detections and G objects of all images; crowds and what lies on them are left out.

    Args:
        scores, classes: ``(D,)``.
        object: ``(D,)`` the object that a detection is right about, or else ``NONE``.
        kind: ``(D,)`` the mistake, a number in ``KINDS``; ``NONE`` for a right one.
        repaired: ``(D,)`` the object that a mistake of class or place would be right about; else ``NONE``.
        rows: ``(D,)`` its row among the detections of its image.
        object_classes: ``(G,)``.
    """

    scores: np.ndarray
    classes: np.ndarray
    object: np.ndarray
    kind: np.ndarray
    repaired: np.ndarray
    rows: np.ndarray
    object_classes: np.ndarray

    def take(self, keep: np.ndarray) -> "Matches":
        """Only the detections where ``keep`` is true, with all objects."""
        names = ("scores", "classes", "object", "kind", "repaired", "rows")
        return dataclasses.replace(self, **{name: getattr(self, name)[keep] for name in names})

    def missed(self) -> np.ndarray:
        """``(G,)`` bool: no detection is right about it, or would be with another class or place."""
        known = np.concatenate([self.object, self.repaired])
        return ~np.isin(np.arange(len(self.object_classes)), known)

    @staticmethod
    def cat(parts: Sequence["Matches"]) -> "Matches":
        """The matches of several images as one."""
        starts = np.cumsum([0, *(len(part.object_classes) for part in parts)])
        columns: dict[str, np.ndarray] = {}
        for field in dataclasses.fields(Matches):
            values = [getattr(part, field.name) for part in parts]
            if field.name in ("object", "repaired"):
                values = [np.where(v == NONE, NONE, v + start) for v, start in zip(values, starts)]
            columns[field.name] = np.concatenate(values)
        return Matches(**columns)


@EVALUATORS.register()
class DetectionErrors(Evaluator):
    """The mistakes of a detector by kind, and how much AP50 would gain without each (TIDE, Bolya et al. 2020).

    A detection that is not right is a mistake of classification (IoU of at least 0.5 with an object of another class),
    of localisation (0.1 to 0.5 with one of its class), of both, a duplicate, or background (below 0.1 with all).
    An object is missed where no detection is right about it, or would be with another class or place. The cost of a
    kind is AP50 with it put right, less AP50: classes and places are corrected, the others are taken out.

    Results: ``{"errors": {"AP50", "counts": {kind: number}, "cost": {kind: AP50}, "num_detections", "score_thresh",
    "task"}}``, those of masks under ``mask_errors``.
    Counts are of detections of at least ``score_thresh``, and of objects that these miss; costs of all.

    Args:
        task: whether IoUs are of boxes or of masks.
        score_thresh: the least score of detections that are counted.

    Raises:
        DataError: ``task`` is mask, and an annotation has none.
    """

    def __init__(self, dataset: Dataset, *, task: Literal["box", "mask"] = "box", score_thresh: Fraction = 0.3):
        super().__init__(dataset)
        self.task, self.score_thresh = task, score_thresh
        self.result_names = ("errors" if task == "box" else "mask_errors",)
        self._truth: dict[int | str, list[dict[str, Any]]] = {}  # read when it is needed
        if task == "mask":
            self._read_truth()
        self.reset()

    def reset(self) -> None:
        """Forgets what ``update`` collected."""
        self._matches: dict[int | str, Matches] = {}

    def _read_truth(self) -> None:
        content = self.dataset.coco()
        bare = [row["id"] for row in content["annotations"] if not row.get("segmentation")]
        if self.task == "mask" and bare:
            what = f"{len(bare)} of {len(content['annotations'])} have none (the first: annotation {bare[0]!r})"
            raise DataError(f"DetectionErrors: task: mask needs a mask for every annotation, but {what}; set task: box")
        self._truth = {image["id"]: [] for image in content["images"]}
        self._verified = verified(content)
        for row in with_regions(content):
            self._truth[row["image_id"]].append(row)

    def update(self, samples: list[Sample], predictions: list[Prediction]) -> None:
        """Takes the instances of one batch.

        Raises:
            ValueError: a prediction without instances, or without masks where ``task`` is mask.
        """
        if not self._truth:
            self._read_truth()
        for sample, prediction in zip(samples, predictions, strict=True):
            if prediction.instances is None or (self.task == "mask" and "masks" not in prediction.instances):
                missing = "masks" if prediction.instances is not None else "instances"
                raise ValueError(f"DetectionErrors: the model predicts no {missing}; take it out, or set task: box")
            if sample.image_id is not None and sample.image_id in self._truth:
                rows, instances = self._truth[sample.image_id], prediction.instances.to("cpu")
                if (known := self._verified.get(sample.image_id)) is not None:
                    ids = self.dataset.category_ids
                    instances = instances[[ids[k] in known for k in instances.classes.tolist()]]
                found = Detections.of(instances)
                self._matches[sample.image_id] = match(found, rows, self.dataset.category_ids, self.task)

    def compute(self) -> dict[str, Any]:
        """The results of all processes; {} off rank 0."""
        gathered = gather_object(self._matches)
        if not is_main():
            return {}
        merged = {image: matches for part in gathered for image, matches in part.items()}
        for image in self._truth.keys() - merged.keys():
            merged[image] = match(NOTHING, self._truth[image], self.dataset.category_ids, "box")
        found: dict[str, Any] = {"AP50": -1.0, "counts": {}, "cost": {}}
        if merged:
            found = error_metrics(Matches.cat(list(merged.values())), self.score_thresh) | {"task": self.task}
        return {self.result_names[0]: found}

    def report(self, results: dict[str, Any]) -> str:
        """The kinds as a table, the costliest first."""
        errors = results[self.result_names[0]]
        rows = [[name, errors["counts"][name], f"{cost:.3f}", KINDS[name]] for name, cost in errors["cost"].items()]
        rows.sort(key=lambda row: -float(row[2]))
        if not rows:
            return "no images were evaluated"
        head = ["mistakes", "number", "AP50 they cost", "detections"]
        table = tabulate(
            rows, head, tablefmt="simple", disable_numparse=True, colalign=("left", "right", "right", "left")
        )
        return f"{self.task} AP50 {errors['AP50']:.3f}; detections of at least {errors['score_thresh']:g}\n{table}"


NOTHING = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), (1, 1), None)


def error_metrics(matches: Matches, score_thresh: float) -> dict[str, Any]:
    """What ``DetectionErrors`` gives under ``errors``, of the matches of all images."""
    base, counted = ap50(matches), matches.take(matches.scores >= score_thresh)
    counts = {name: int((counted.kind == k).sum()) for k, name in enumerate(KINDS)}
    counts["missed"] = int(counted.missed().sum())
    cost = {name: ap50(repaired(matches, k)) - base if base >= 0 else 0.0 for k, name in enumerate(KINDS)}
    found = {"num_detections": len(counted.scores), "score_thresh": score_thresh}
    return {"AP50": base, "counts": counts, "cost": cost, **found}


def match(
    found: Detections, rows: Sequence[Mapping[str, Any]], category_ids: Sequence[int], task: Literal["box", "mask"]
) -> Matches:
    """One image's detections and objects: which are right, and what is wrong with the others.

    Objects are matched as COCO's evaluation does, class by class, the best detection first.
    """
    order = np.argsort(-found.scores, kind="stable")
    number = {id_: k for k, id_ in enumerate(category_ids)}
    crowd = np.array([bool(row.get("iscrowd", 0)) for row in rows], bool)
    classes = np.array([number[row["category_id"]] for row in rows], np.int64)
    ious = _ious(found, order, rows, crowd, task)
    mine = found.classes[order]
    same = classes == mine[:, None]
    fits = same & (ious >= FOREGROUND)
    right, taken = np.full(len(order), NONE), crowd.copy()
    for i in np.flatnonzero((fits & ~crowd).any(1)).tolist():
        free = np.flatnonzero(fits[i] & ~taken)
        if len(free):
            best = int(free[ious[i, free].argmax()])
            right[i], taken[best] = best, True
    keep = (right != NONE) | ~(fits & crowd).any(1)
    kind, mended = _mistakes(np.where(crowd, 0, ious), same)
    kind[right != NONE] = mended[right != NONE] = NONE
    numbers = np.append(np.cumsum(~crowd) - 1, NONE)  # the last one for NONE
    objects, mended = numbers[right], numbers[mended]
    return Matches(found.scores[order], mine, objects, kind, mended, order, classes[~crowd]).take(keep)


def _ious(
    found: Detections, order: np.ndarray, rows: Sequence[Mapping[str, Any]], crowd: np.ndarray, task: str
) -> np.ndarray:
    if not len(order) or not len(rows):
        return np.zeros((len(order), len(rows)))
    if task == "box":
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        return np.asarray(coco_mask.iou(found.boxes[order], boxes, crowd.astype(np.uint8)))
    ours = [{"size": list(found.image_size), "counts": (found.masks or [])[i]} for i in order.tolist()]
    theirs = [as_rle(row["segmentation"], found.image_size) for row in rows]
    return np.asarray(coco_mask.iou(ours, theirs, crowd.astype(np.uint8)))


def _mistakes(ious: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each detection's kind, were it not right, and the object that it would be right about, from ``(D, G)``."""
    if not ious.size:
        return np.full(len(ious), list(KINDS).index("background")), np.full(len(ious), NONE)
    own, other = np.where(same, ious, 0), np.where(same, 0, ious)
    near, near_other = own.max(1), other.max(1)
    cases = {
        "duplicate": near >= FOREGROUND,
        "classification": near_other >= FOREGROUND,
        "localisation": near >= BACKGROUND,
        "both": near_other >= BACKGROUND,
    }
    kind = np.select(list(cases.values()), [list(KINDS).index(k) for k in cases], list(KINDS).index("background"))
    objects = {"classification": other.argmax(1), "localisation": own.argmax(1)}
    return kind, np.select([kind == list(KINDS).index(k) for k in objects], list(objects.values()), NONE)


def repaired(matches: Matches, kind: int) -> Matches:
    """The matches with the mistakes of a kind put right: corrected once an object, else taken out."""
    if list(KINDS)[kind] == "missed":
        keep = ~matches.missed()
        numbers = np.cumsum(keep) - 1
        moved = [np.where(v == NONE, NONE, numbers[v]) for v in (matches.object, matches.repaired)]
        return dataclasses.replace(
            matches, object=moved[0], repaired=moved[1], object_classes=matches.object_classes[keep]
        )
    right, classes = matches.object.copy(), matches.classes.copy()
    free = ~np.isin(np.arange(len(matches.object_classes)), right)
    wrong = np.flatnonzero((matches.kind == kind) & (matches.repaired != NONE))
    wrong = wrong[free[matches.repaired[wrong]]]
    wrong = wrong[np.argsort(-matches.scores[wrong], kind="stable")]
    targets, first = np.unique(matches.repaired[wrong], return_index=True)  # the best one of each object
    right[wrong[first]], classes[wrong[first]] = targets, matches.object_classes[targets]
    mended = dataclasses.replace(matches, object=right, classes=classes)
    return mended.take((matches.kind != kind) | (right != NONE))


def ap50(matches: Matches) -> float:
    """COCO's AP at an IoU of 0.5: the mean over classes with objects; -1 where there is none."""
    order = np.lexsort((-matches.scores, matches.classes))
    classes, right = matches.classes[order], matches.object[order] != NONE
    present, totals = np.unique(matches.object_classes, return_counts=True)
    starts, ends = (np.searchsorted(classes, present, side=side) for side in ("left", "right"))
    values = []
    for start, end, total in zip(starts.tolist(), ends.tolist(), totals.tolist()):
        hits = np.cumsum(right[start:end])
        recall, precision = hits / total, hits / np.arange(1, end - start + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        values.append(float(np.append(best, 0.0)[np.minimum(at, end - start)].mean()))
    return float(np.mean(values)) if values else -1.0
