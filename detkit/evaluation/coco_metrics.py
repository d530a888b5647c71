"""COCO's average precision and recall over a dataset, with a reason for every metric that cannot be given.

The metrics are those of pycocotools' ``COCOeval`` (https://cocodataset.org/#detection-eval), computed by
faster-coco-eval. Letters: T IoU thresholds, R recall points, K classes, A area ranges, M limits on detections.
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pycocotools.mask as coco_mask

from detkit.evaluation.labelled import classes_by_frequency, verified, with_regions
from detkit.registry import DataError
from detkit.structures import KeypointSpec
from detkit.utils.memory import no_collection

logger = logging.getLogger(__name__)

Task = Literal["box", "boundary", "mask", "keypoints"]
AT_A_TIME = 200
"""pycocotools takes the areas of no more than 255 shapes at once."""
TASKS: tuple[Task, ...] = get_args(Task)
FIELDS: dict[Task, str] = {"boundary": "masks", "mask": "masks", "keypoints": "keypoints"}
"""What a task beyond boxes needs of predictions."""
AREAS = {"s": "smaller than 32 x 32 pixels", "m": "of 32 x 32 to 96 x 96 pixels", "l": "larger than 96 x 96 pixels"}


class GroundTruth:
    """A dataset's ground truth, made ready for the evaluator.

    Images and annotations are numbered from 1 in the order of their ids: so ids may be strings, and an annotation
    whose id is 0 counts as any other (pycocotools takes 0 for "unmatched"). Categories are numbered from 1 in the order
    of the classes, whatever their ids.

    Args:
        coco: COCO's instances form, as ``Dataset.coco`` gives it; its categories are in the order of the classes.
        class_names: the K names.
        keypoint_sigmas: take the place of the data's.

    Attributes:
        keypoints: what the keypoints are; None for data without any.
        annotations: as they are given.
        regions: the same with crowds for all that is no mistake where it is detected.
    """

    def __init__(
        self, coco: dict[str, Any], class_names: Sequence[str], keypoint_sigmas: tuple[float, ...] | None = None
    ):
        self.class_names = tuple(class_names)
        specs = [KeypointSpec.from_coco(category) for category in coco["categories"] if category.get("keypoints")]
        self.keypoints = specs[0] if specs else None
        if self.keypoints is not None and keypoint_sigmas is not None:
            self.keypoints = dataclasses.replace(self.keypoints, sigmas=keypoint_sigmas)
        ids = sorted((image["id"] for image in coco["images"]), key=lambda i: (isinstance(i, str), i))
        self.number: dict[int | str, int] = {image_id: n for n, image_id in enumerate(ids, 1)}
        self.images = [{"id": self.number[i["id"]], "height": i["height"], "width": i["width"]} for i in coco["images"]]
        self.class_number: dict[int, int] = {c["id"]: n for n, c in enumerate(coco["categories"], 1)}
        self.annotations = list(coco["annotations"])
        self.regions, self._verified = with_regions(coco), verified(coco)
        self.frequencies = classes_by_frequency(coco["categories"])
        counts = Counter(self.class_number[a["category_id"]] for a in self.annotations if not a.get("iscrowd", 0))
        self.instances = {name: counts[k] for k, name in enumerate(self.class_names, 1)}

    def without_mask(self) -> list[Any]:
        """The ids of the annotations that have no segmentation."""
        return [a["id"] for a in self.annotations if not a.get("segmentation")]

    def check(self, task: Task) -> None:
        """Raises DataError where the data lack what a task compares."""
        if task == "keypoints" and self.keypoints is None:
            raise DataError("keypoint AP needs data with keypoints, and these have none; evaluate boxes (tasks: [box])")
        if FIELDS.get(task) == "masks" and (bare := self.without_mask()):
            raise DataError(
                f"{task} AP needs a mask for every annotation, but {len(bare)} have none (the first: annotation"
                f" {bare[0]!r}); evaluate boxes only (tasks: [box])"
            )

    def looked_for(self, image_id: int | str) -> set[int] | None:
        """The ids of the categories that were looked for in an image; None: all."""
        return self._verified.get(image_id)

    def counts(self, result: Mapping[str, Any]) -> bool:
        """Whether a detection is of a class that was looked for in its image."""
        known = self.looked_for(result["image_id"])
        return known is None or result["category_id"] in known

    def rows(self, task: Task) -> list[dict[str, Any]]:
        """The annotations with only what ``task`` needs, as new dicts (the evaluator writes into them)."""
        none = [0] * 3 * len(self.keypoints.names if self.keypoints else ())
        key = _PROTOCOLS[task].key
        rows = [
            {
                "id": n,
                "image_id": self.number[a["image_id"]],
                "category_id": self.class_number[a["category_id"]],
                "iscrowd": int(a.get("iscrowd", 0)),
                "area": a.get("area", a["bbox"][2] * a["bbox"][3]),
                "bbox": a["bbox"],
                key: a.get(key) or none,
            }
            for n, a in enumerate(self.regions, 1)
        ]
        for row in rows if key == "keypoints" else ():
            row["num_keypoints"] = sum(v > 0 for v in row["keypoints"][2::3])
        return rows


@dataclasses.dataclass(frozen=True)
class _Protocol:
    """How the metrics of a task are taken.

    Args:
        kind: what the evaluator calls the task.
        key: what of a result is compared.
        sizes: of ``AREAS``, those that metrics are given for.
        most: so many detections of an image and class count at most; AR is given for IoUs, not for limits.
    """

    kind: str
    key: str
    sizes: str = "sml"
    most: int | None = None

    def limits(self, max_detections: int) -> list[int]:
        """The limits on detections that recall is taken at."""
        if self.most is not None:
            return [min(self.most, max_detections)]
        return sorted({n for n in (1, 10) if n < max_detections} | {max_detections})

    def recalls(self, recall: np.ndarray, limits: Sequence[int]) -> dict[str, float]:
        """AR by limit or by IoU."""
        if self.most is None:
            return {f"AR{limit}": _mean(recall[..., 0, m]) for m, limit in enumerate(limits)}
        thresholds: dict[str, Any] = {"AR": slice(None), "AR50": 0, "AR75": 5}
        return {name: _mean(recall[chosen, :, 0, -1]) for name, chosen in thresholds.items()}


_PROTOCOLS: dict[Task, _Protocol] = {
    "box": _Protocol("bbox", "bbox"),
    "boundary": _Protocol("boundary", "segmentation"),
    "mask": _Protocol("segm", "segmentation"),
    "keypoints": _Protocol("keypoints", "keypoints", "ml", 20),
}


def coco_metrics(
    truth: GroundTruth, results: list[dict[str, Any]], task: Task, max_detections: int, per_class: bool
) -> dict[str, Any]:
    """The COCO metrics of one task, in 0..1; -1 where there is nothing to measure.

    Args:
        truth: the ground truth.
        results: COCO results of all images.
        task: what is compared.
        max_detections: how many detections an image and class count, best first; AP and the last AR are taken there.
        per_class: also ``per_class``, the AP of every class, and ``class_metrics``.

    Returns:
        ``AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR<max_detections>, ARs, ARm, ARl``, for LVIS's classes ``APr, APc,
        APf``, of keypoints those that ``CocoEvaluator`` names; with ``per_class`` a ``{name: AP}``, ``class_metrics`` a
        ``{name: {"AP50", "AP75", "APs", "APm", "APl"}}``, and ``reasons``: for each metric that is -1, and for metrics
        that are 0 because there were no predictions, why (those of the classes under ``reasons["per_class"]``).

    Raises:
        DataError: a mask task with an annotation that has no segmentation, keypoints where the data have none.
    """
    protocol = _PROTOCOLS[task]
    limits = protocol.limits(max_detections)
    with no_collection():
        precision, recall = _accumulate(truth, results, task, limits)
    metrics: dict[str, Any] = {
        "AP": _mean(precision[..., 0, -1]),
        "AP50": _mean(precision[0, ..., 0, -1]),
        "AP75": _mean(precision[5, ..., 0, -1]),
        **{f"AP{size}": _mean(precision[..., a, -1]) for a, size in enumerate(protocol.sizes, 1)},
        **protocol.recalls(recall, limits),
        **{f"AR{size}": _mean(recall[..., a, -1]) for a, size in enumerate(protocol.sizes, 1)},
    }
    for name, classes in truth.frequencies.items():
        metrics[f"AP{name}"] = _mean(precision[:, :, classes, 0, -1])
    if per_class:
        metrics["per_class"] = {n: _mean(precision[:, :, k, 0, -1]) for k, n in enumerate(truth.class_names)}
        parts: dict[str, Any] = {"AP50": np.s_[0, :, :, 0], "AP75": np.s_[5, :, :, 0]}
        parts |= {f"AP{size}": np.s_[:, :, :, a] for a, size in enumerate(protocol.sizes, 1)}
        metrics["class_metrics"] = {
            name: {key: _mean(precision[part][..., k, -1]) for key, part in parts.items()}
            for k, name in enumerate(truth.class_names)
        }
    metrics["reasons"] = _reasons(truth, results, metrics)
    return metrics


def _accumulate(
    truth: GroundTruth, results: list[dict[str, Any]], task: Task, limits: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision ``(T, R, K, A, M)`` and recall ``(T, K, A, M)``."""
    from faster_coco_eval import COCO, COCOeval_faster  # heavy, and only evaluation needs it

    protocol = _PROTOCOLS[task]
    truth.check(task)
    if not (truth.class_names and truth.images):
        k, a, m = len(truth.class_names), 1 + len(protocol.sizes), len(limits)
        return np.full((10, 101, k, a, m), -1.0), np.full((10, k, a, m), -1.0)
    categories = [{"id": k, "name": name} for k, name in enumerate(truth.class_names, 1)]
    sides = []
    for rows in (truth.rows(task), _rows(truth, results, task)):
        side = COCO(print_function=logger.debug)
        side.dataset = {"images": truth.images, "annotations": rows, "categories": categories}
        side.createIndex()
        sides.append(side)
    evaluation = COCOeval_faster(*sides, protocol.kind, print_function=logger.debug)
    if truth.keypoints is not None:
        evaluation.params.kpt_oks_sigmas = np.array(truth.keypoints.oks_sigmas)
    evaluation.params.catIds = [c["id"] for c in categories]  # for keypoints it leaves out those without an object
    evaluation.params.maxDets = limits
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _rows(truth: GroundTruth, results: list[dict[str, Any]], task: Task) -> list[dict[str, Any]]:
    """Results as annotations. The size of a detection is its mask's area for masks, and its box's else."""
    key = _PROTOCOLS[task].key
    rows = [
        {
            "id": n,
            "image_id": truth.number[r["image_id"]],
            "category_id": truth.class_number[r["category_id"]],
            "iscrowd": 0,
            **{name: r[name] for name in ("score", "bbox", key)},
        }
        for n, r in enumerate(filter(truth.counts, results), 1)
    ]
    if key == "segmentation":
        shapes = [r["segmentation"] for r in rows]
        areas = [a for i in range(0, len(rows), AT_A_TIME) for a in coco_mask.area(shapes[i : i + AT_A_TIME]).tolist()]
    else:
        areas = [r["bbox"][2] * r["bbox"][3] for r in rows]
    return [{**row, "area": area} for row, area in zip(rows, areas)]


def _mean(values: np.ndarray) -> float:
    """The mean over everything that could be measured (-1 marks what could not)."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0


def _reasons(truth: GroundTruth, results: list[dict[str, Any]], metrics: dict[str, Any]) -> dict[str, Any]:
    """Why a metric is -1, or 0 for want of predictions. Key -> words."""
    reasons: dict[str, Any] = {}
    total = sum(truth.instances.values())
    for key, value in metrics.items():
        if value == -1 and not total:
            only = f" but {len(truth.annotations)} crowd regions" if truth.annotations else ""
            reasons[key] = f"the test set's {len(truth.images)} images have no ground truth{only}"
        elif value == -1:
            reasons[key] = f"no ground truth {AREAS.get(key[-1], 'that counts')} in the test set"
    if total and not results:
        reasons["AP"] = f"the model predicted nothing on all {len(truth.images)} images"
    classes: dict[str, str] = {}
    predicted = {truth.class_number[r["category_id"]] for r in results}
    crowds = Counter(truth.class_number[a["category_id"]] for a in truth.annotations if a.get("iscrowd", 0))
    for k, (name, value) in enumerate(metrics.get("per_class", {}).items(), 1):
        if value == -1 and crowds[k]:
            classes[name] = "the test set has only crowd regions of this class"
        elif value == -1:
            classes[name] = "no image of the test set has an object of this class"
        elif results and k not in predicted:
            classes[name] = "the model predicted no object of this class"
    if classes:
        reasons["per_class"] = classes
    return reasons
