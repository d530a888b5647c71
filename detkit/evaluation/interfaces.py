"""The role of an evaluator."""

from collections.abc import Sequence
from typing import Any

from detkit.data.interfaces import Dataset
from detkit.registry import ConfigError, Registry, required
from detkit.structures import Prediction, Sample


class Evaluator:
    """Collects predictions and turns them into metrics.

    Args:
        dataset: what is evaluated; its ``coco()`` gives the ground truth.

    Attributes:
        result_names: the names under which ``compute`` may give results, as far as they are known before.
    """

    result_names: tuple[str, ...] = ()

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    @required
    def reset(self) -> None:
        """Forgets what ``update`` collected."""
        raise NotImplementedError

    @required
    def update(self, samples: list[Sample], predictions: list[Prediction]) -> None:
        """Takes the predictions of one batch, in original pixels, and of each the parts that it needs."""
        raise NotImplementedError

    @required
    def compute(self) -> dict[str, Any]:
        """JSON-ready results of all processes together, e.g. ``{"box": {"AP": 0.4, ...}, ...}``; {} off rank 0."""
        raise NotImplementedError

    @required
    def report(self, results: dict[str, Any]) -> str:
        """``compute()``'s results as tables for a person."""
        raise NotImplementedError


def check_result_names(evaluators: Sequence[Evaluator]) -> None:
    """Raises ConfigError where two evaluators may give results of the same name."""
    owners = dict[str, str]()
    for evaluator in evaluators:
        kind = type(evaluator).__name__
        for name in evaluator.result_names:
            if name in owners:
                raise ConfigError(
                    f"evaluators: {owners[name]} and {kind} both give results named '{name}', which only one can;"
                    " take one of the two out, or give them different tasks"
                )
            owners[name] = kind


EVALUATORS: Registry[Evaluator] = Registry("evaluator", Evaluator)
