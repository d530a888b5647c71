"""CocoEvaluator: AP of boxes, masks and keypoints by the COCO protocol."""

import json
import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from detkit.config import Count, Positive
from detkit.data.interfaces import Dataset
from detkit.evaluation.coco_metrics import FIELDS, GroundTruth, Task, coco_metrics
from detkit.evaluation.coco_report import coco_report
from detkit.evaluation.coco_results import Detections
from detkit.evaluation.interfaces import EVALUATORS, Evaluator
from detkit.evaluation.results_file import read_detections
from detkit.registry import DataError
from detkit.structures import Instances, Prediction, Sample
from detkit.utils.distributed import gather_object, is_main
from detkit.utils.memory import no_collection
from detkit.utils.paths import atomic_write

logger = logging.getLogger(__name__)

MODEL_LIMIT = "model.roi_heads.box_head.detection.max_detections (model.head.max_detections of a one-stage detector)"
"""The options that limit how many detections there are, for messages."""


@EVALUATORS.register()
class CocoEvaluator(Evaluator):
    """COCO's average precision and recall for boxes, masks and keypoints, equal to pycocotools' metrics.

    Results are in 0..1: ``{"box": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm",
    "ARl", "per_class": {name: AP}, "class_metrics", "reasons": {key: words}}, "mask": {...}}``. A metric is -1
    where there is nothing to measure, for the reason in ``reasons``. An image that is given twice counts once. Where a
    limit cuts detections off, each task's ``limits`` say how many, of how many images: ``cut_by_model`` and
    ``cut_by_evaluator``.

    Keypoints are compared by OKS in the place of IoU, and of an image no more than 20 detections count: ``{"keypoints":
    {"AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl", ...}}``.

    Boundary AP, which only ``tasks`` can ask for, is mask AP with the lesser of two IoUs: of the masks, and of their
    rims, as wide as 2 % of the image's diagonal (Cheng et al. 2021). So it shows how exact outlines are.

    LVIS's rule holds for data that say so: detections of classes that nobody looked for in an image do not count, nor
    false ones of classes that are not exhaustively labelled there; ``APr``, ``APc`` and ``APf`` are the AP of its rare,
    common and frequent classes. ``LvisEvaluator`` has its limit on their number, too.

    Args:
        tasks: which metrics; null: boxes, and masks and keypoints where both the data and the predictions have them.
        max_detections: how many detections an image (and class) count, best first; AP is taken at this limit, and
            the last AR is named after it.
        per_class: also give the AP of every class, and as ``class_metrics`` its AP50, AP75, APs, APm and APl.
        keypoint_sigmas: how exactly each keypoint can be marked, see ``KeypointSpec``; null: the data's.

    Raises:
        DataError: ``tasks`` ask for masks and an annotation has none, or for keypoints and the data have none.
    """

    limit_of: ClassVar[str] = "an image and class"

    def __init__(
        self,
        dataset: Dataset,
        *,
        tasks: tuple[Task, ...] | None = None,
        max_detections: Count = 100,
        per_class: bool = True,
        keypoint_sigmas: tuple[Positive, ...] | None = None,
    ):
        super().__init__(dataset)
        if max_detections < 1:
            raise ValueError(f"max_detections: expected at least 1, got {max_detections}")
        if tasks is not None and not tasks:
            raise ValueError(
                "tasks: expected box, mask, boundary or keypoints, got an empty list; null chooses by the data"
            )
        points = len(dataset.keypoint_names)
        if keypoint_sigmas is not None and points and len(keypoint_sigmas) != points:
            raise ValueError(f"keypoint_sigmas: expected {points} numbers, one a keypoint, got {len(keypoint_sigmas)}")
        self.keypoint_sigmas = keypoint_sigmas
        self.tasks, self.max_detections, self.per_class = tasks, max_detections, per_class
        self.result_names = tasks or ("box", "mask", "keypoints")
        self._truth: GroundTruth | None = None
        for task in (task for task in tasks or () if task in FIELDS):
            self.truth.check(task)
        self.reset()

    def reset(self) -> None:
        """Forgets what ``update`` collected."""
        self._predictions: dict[int | str, Detections] = {}

    def update(self, samples: list[Sample], predictions: list[Prediction]) -> None:
        """Takes the predictions of one batch, in original pixels; masks are kept as RLE.

        Raises:
            ValueError: a sample without an id, a prediction without instances, of a class that the dataset does not
                have, without what ``tasks`` asks for, or with other keypoints than the dataset's.
            DataError: a sample whose id is not one of the dataset's.
        """
        truth = self.truth
        for sample, prediction in zip(samples, predictions, strict=True):
            image_id = sample.image_id
            if image_id is None:
                raise ValueError(f"{sample.file_name or 'a sample'}: evaluation needs an image_id")
            if image_id not in truth.number:
                raise DataError(f"image {image_id!r} ({sample.file_name}) is not in the dataset that is evaluated")
            if image_id in self._predictions:
                continue
            instances = self._checked(prediction.instances)
            if self.tasks is not None:
                instances = instances.without(*{*FIELDS.values()} - {FIELDS.get(task) for task in self.tasks})
            self._predictions[image_id] = Detections.of(instances, prediction.num_cut)

    def compute(self) -> dict[str, Any]:
        """The metrics over the predictions of all processes (all of them must call); {} off rank 0."""
        gathered = gather_object(self._predictions)
        if not is_main():
            return {}
        self._predictions = {image_id: found for part in reversed(gathered) for image_id, found in part.items()}
        truth = self.truth
        if (evaluated := len(self._predictions)) < len(truth.number):
            what = "%d of the dataset's %d images were evaluated; the objects of the others count as missed"
            logger.warning(what, evaluated, len(truth.number))
        results, cut = self.results(), self._limits()
        limits = {"limits": cut} if cut else {}
        return {
            task: coco_metrics(truth, results, task, self.max_detections, self.per_class) | limits
            for task in self._tasks(truth, results)
        }

    def report(self, results: dict[str, Any]) -> str:
        """``compute()``'s results as tables: overall, class by class with the number of objects, and reasons."""
        own = {name: results[name] for name in self.result_names if name in results}
        lines = [coco_report(own, self.truth.instances)]
        limits: dict[str, Any] = next((found["limits"] for found in own.values() if "limits" in found), {})
        for name, fix in (
            ("model", MODEL_LIMIT),
            ("evaluator", f"this evaluator's max_detections ({self.max_detections} {self.limit_of})"),
        ):
            if cut := limits.get(f"cut_by_{name}"):
                what = f"{cut['detections']} detections of {cut['images']} images were cut off by the {name}'s limit"
                lines.append(f"{what}; raise {fix} to have them")
        return "\n\n".join(lines)

    def _limits(self) -> dict[str, dict[str, int]]:
        """What limits on their number have cut off, of model and evaluator; {} for nothing."""
        per_image = self._predictions.values()
        counts = {
            "cut_by_model": [found.num_cut for found in per_image],
            "cut_by_evaluator": [len(found.scores) - self._num_counted(found) for found in per_image],
        }
        return {
            name: {"detections": sum(cut), "images": sum(number > 0 for number in cut)}
            for name, cut in counts.items()
            if any(cut)
        }

    def _num_counted(self, found: Detections) -> int:
        """How many detections of an image count."""
        return int(np.bincount(found.classes).clip(max=self.max_detections).sum())

    @property
    def detections(self) -> dict[int | str, Detections]:
        """Image id -> its detections, as ``results`` has them. The next ``reset`` makes another dict."""
        return self._predictions

    def read_results(self, path: str | Path) -> None:
        """Takes the detections of a COCO results file in the place of ``update``; see ``read_detections``.

        Raises:
            DataError: the file cannot be read, or lacks what ``tasks`` ask for.
        """
        self.reset()
        self._predictions = read_detections(path, self.truth)
        any_found = any(len(found.scores) for found in self._predictions.values())
        for task in (task for task in self.tasks or () if task in FIELDS):
            if any_found and not self._has(FIELDS[task]):
                what = f"tasks ask for {task} AP, but not every detection there has {FIELDS[task]}"
                raise DataError(f"{path}: {what}; set tasks: [box]")

    def results(self) -> list[dict[str, Any]]:
        """COCO results, image by image: this process's own; after ``compute``, on rank 0, those of all processes."""
        found, truth = self.detections, self.truth
        image_ids, category_ids = sorted(found, key=truth.number.__getitem__), tuple(truth.class_number)
        with no_collection():
            return [row for image_id in image_ids for row in found[image_id].rows(image_id, category_ids)]

    def write_results(self, path: str | Path) -> None:
        """Writes ``results()`` as JSON, the form that COCO's evaluation servers and tools take."""
        with atomic_write(path, "w") as file:
            json.dump(self.results(), file)

    @property
    def truth(self) -> GroundTruth:
        """The dataset's ground truth, made ready once."""
        if self._truth is None:
            self._truth = GroundTruth(self.dataset.coco(), self.dataset.class_names, self.keypoint_sigmas)
        return self._truth

    def _checked(self, instances: Instances | None) -> Instances:
        """The instances on the CPU, if they can be evaluated."""
        if instances is None:
            raise ValueError("the model predicts no instances; take CocoEvaluator out of evaluators")
        num_classes = len(self.dataset.class_names)
        if len(instances) and int(instances.classes.max()) >= num_classes:
            raise ValueError(
                f"the model predicted class {int(instances.classes.max())}, but the dataset has {num_classes} classes"
                " (0 is the first): model and dataset do not belong together"
            )
        for task, field in FIELDS.items():
            if self.tasks is not None and task in self.tasks and field not in instances:
                raise ValueError(f"tasks asks for {task} AP, but the model predicts no {field}; set tasks: [box]")
        spec = self.truth.keypoints
        if spec is not None and "keypoints" in instances and instances.keypoints.shape[1] != len(spec.names):
            raise ValueError(
                f"the model predicts {instances.keypoints.shape[1]} keypoints, the dataset has {len(spec.names)}:"
                " model and dataset do not belong together"
            )
        return instances.to("cpu")

    def _has(self, field: str) -> bool:
        """Whether the detections of any image have masks, or keypoints."""
        return any(getattr(found, field) is not None for found in self._predictions.values())

    def _tasks(self, truth: GroundTruth, results: list[dict[str, Any]]) -> tuple[Task, ...]:
        if self.tasks is not None:
            return self.tasks
        keypoints: tuple[Task, ...] = ("keypoints",) if truth.keypoints and self._has("keypoints") else ()
        predicted = self._has("masks") and all("segmentation" in row for row in results)
        bare = len(truth.without_mask())
        if predicted and 0 < bare < len(truth.annotations):
            logger.warning("no mask AP: %d of %d annotations have no mask", bare, len(truth.annotations))
        return ("box", *(("mask",) if predicted and (not bare or not truth.annotations) else ()), *keypoints)
