"""SemanticEvaluator: intersection over union of semantic maps."""

from typing import Any

import numpy as np

from detkit.evaluation.interfaces import EVALUATORS
from detkit.evaluation.per_image import PerImageEvaluator, metric_tables
from detkit.structures import Prediction


@EVALUATORS.register()
class SemanticEvaluator(PerImageEvaluator):
    """How well semantic maps fit, over the pixels of all images together whose class is known.

    Results are in 0..1: ``{"semantic": {"mIoU", "fwIoU", "mACC", "pACC", "per_class": {name: IoU}}}``: the mean over
    classes of intersection over union, the same weighted by the classes' pixels, the mean over classes of the share of
    right pixels, and the share of right pixels. A class without a pixel has -1, and does not count.
    """

    result_names = ("semantic",)

    def count(self, index: int, prediction: Prediction) -> np.ndarray:
        """``(3, C)``: right, true and predicted pixels of each class."""
        names, found = self.dataset.semantic_names, prediction.semantic
        if found is None:
            raise ValueError("the model predicts no semantic map; take SemanticEvaluator out of evaluators")
        truth, classes = self.dataset.maps(index)["semantic"].astype(np.int64), found.numpy()
        if truth.shape != classes.shape or (classes.size and not 0 <= classes.min() <= classes.max() < len(names)):
            raise ValueError(
                f"image {self.dataset.image_id(index)!r}: the predicted map has the size {classes.shape} and classes "
                f"up to {classes.max(initial=0)}; expected {truth.shape} and {len(names)} classes: model "
                "and dataset do not belong together"
            )
        known = (truth >= 0) & (truth < len(names))
        truth, classes = truth[known], classes[known]
        parts = (truth[truth == classes], truth, classes)
        return np.stack([np.bincount(part, minlength=len(names)) for part in parts])

    def metrics(self, counts: list[np.ndarray]) -> dict[str, Any]:
        """The results."""
        names = self.dataset.semantic_names
        right, true, found = np.sum([*counts, np.zeros((3, len(names)))], 0)
        there = true > 0
        iou, share = right[there] / (true + found - right)[there], right[there] / true[there]
        ious = np.full(len(names), -1.0)
        ious[there] = iou
        results = {
            "mIoU": iou.mean() if there.any() else -1,
            "fwIoU": (iou * true[there]).sum() / true.sum() if there.any() else -1,
            "mACC": share.mean() if there.any() else -1,
            "pACC": right.sum() / true.sum() if there.any() else -1,
        }
        return {"semantic": {k: float(v) for k, v in results.items()} | {"per_class": dict(zip(names, ious.tolist()))}}

    def report(self, results: dict[str, Any]) -> str:
        """``compute()``'s results as tables."""
        found = dict(results["semantic"])
        classes = {name: {"IoU": value} for name, value in found.pop("per_class").items()}
        return metric_tables("semantic", {"all": found}, classes)
