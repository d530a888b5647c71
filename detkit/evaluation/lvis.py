"""LvisEvaluator: box and mask AP by the protocol of LVIS."""

from typing import ClassVar, Literal

import numpy as np

from detkit.config import Count
from detkit.data.interfaces import Dataset
from detkit.evaluation.coco import CocoEvaluator
from detkit.evaluation.coco_results import Detections
from detkit.evaluation.interfaces import EVALUATORS


@EVALUATORS.register()
class LvisEvaluator(CocoEvaluator):
    """LVIS's average precision and recall, equal to the ``lvis`` package's (Gupta et al. 2019).

    Results are those of ``CocoEvaluator``, with ``APr``, ``APc`` and ``APf`` of the rare, common and frequent classes.
    The best detections of an image count, whatever their classes.

    Args:
        max_detections: how many detections of an image count, of all classes together.
    """

    limit_of: ClassVar[str] = "an image"

    def __init__(
        self,
        dataset: Dataset,
        *,
        tasks: tuple[Literal["box", "mask"], ...] | None = None,
        max_detections: Count = 300,
        per_class: bool = True,
    ):
        super().__init__(dataset, tasks=tasks, max_detections=max_detections, per_class=per_class)

    @property
    def detections(self) -> dict[int | str, Detections]:
        """See ``CocoEvaluator.detections``: those that count."""
        return {image_id: self._best(found) for image_id, found in self._predictions.items()}

    def _num_counted(self, found: Detections) -> int:
        return min(len(found.scores), self.max_detections)

    def _best(self, found: Detections) -> Detections:
        if len(found.scores) <= self.max_detections:
            return found
        return found.take(np.sort(np.argsort(-found.scores, kind="stable")[: self.max_detections]))
