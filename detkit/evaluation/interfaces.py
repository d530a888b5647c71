"""The role of an evaluator."""

from typing import Any

from detkit.data.interfaces import Dataset
from detkit.registry import Registry
from detkit.structures import Prediction, Sample


class Evaluator:
    """Collects predictions and turns them into metrics.

    Args:
        dataset: what is evaluated; its ``coco()`` gives the ground truth.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def reset(self) -> None:
        """Forgets what ``update`` collected."""
        raise NotImplementedError

    def update(self, samples: list[Sample], predictions: list[Prediction]) -> None:
        """Takes the predictions of one batch, in original pixels, and of each the parts that it needs."""
        raise NotImplementedError

    def compute(self) -> dict[str, Any]:
        """JSON-ready results of all processes together, e.g. ``{"box": {"AP": 0.4, ...}, ...}``; {} off rank 0."""
        raise NotImplementedError

    def report(self, results: dict[str, Any]) -> str:
        """``compute()``'s results as tables for a person."""
        raise NotImplementedError


EVALUATORS: Registry[Evaluator] = Registry("evaluator", Evaluator)
