"""PerImageEvaluator: an evaluator that makes something of each image by itself, and metrics of all of it."""

from typing import Any

from detkit.data.interfaces import Dataset
from detkit.evaluation.interfaces import Evaluator
from detkit.registry import ConfigError, DataError
from detkit.structures import Prediction, Sample
from detkit.utils.distributed import gather_object, is_main
from detkit.utils.tables import metric_table


class PerImageEvaluator(Evaluator):
    """Calls ``count`` once for each image; an image that is given twice, also by two processes, counts once.

    Raises:
        ConfigError: the dataset has no semantic maps.
    """

    def __init__(self, dataset: Dataset):
        super().__init__(dataset)
        if not dataset.semantic_names:
            raise ConfigError(
                f"evaluators: {type(self).__name__} needs a test dataset with semantic maps, such as CocoPanoptic; "
                f"{type(dataset).__name__} has none: take another dataset, or this evaluator out of evaluators"
            )
        self._index: dict[int | str, int] = {}
        self.reset()

    def count(self, index: int, prediction: Prediction) -> Any:
        """What ``metrics`` needs of the image ``index`` of the dataset."""
        raise NotImplementedError

    def metrics(self, counts: list[Any]) -> dict[str, Any]:
        """The results of what ``count`` gave for all images."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forgets what ``update`` collected."""
        self._counts: dict[int | str, Any] = {}

    def update(self, samples: list[Sample], predictions: list[Prediction]) -> None:
        """Takes the predictions of one batch, in original pixels.

        Raises:
            ValueError: a prediction without the map that is needed, or with classes that the dataset does not have.
            DataError: a sample whose id is not one of the dataset's.
        """
        if not self._index:
            self._index = {self.dataset.image_id(index): index for index in range(len(self.dataset))}
        for sample, prediction in zip(samples, predictions, strict=True):
            index = None if sample.image_id is None else self._index.get(sample.image_id)
            if sample.image_id is None or index is None:
                name = f"image {sample.image_id!r} ({sample.file_name})"
                raise DataError(f"{name} is not in the dataset that is evaluated")
            if sample.image_id not in self._counts:
                self._counts[sample.image_id] = self.count(index, prediction.to("cpu"))

    def compute(self) -> dict[str, Any]:
        """The metrics over the predictions of all processes (all of them must call); {} off rank 0."""
        gathered = gather_object(self._counts)
        if not is_main():
            return {}
        for counts in gathered:
            self._counts = {**counts, **self._counts}
        return self.metrics(list(self._counts.values()))


def metric_tables(title: str, overall: dict[str, dict[str, float]], classes: dict[str, dict[str, float]]) -> str:
    """Rows of metrics by name, then those of classes."""
    tables = [(title, overall), ("class", classes)]
    return "\n\n".join(
        metric_table([name, *next(iter(rows.values()))], [[row, *values.values()] for row, values in rows.items()])
        for name, rows in tables
        if rows
    )
