"""Images in batches, and what is said of each prediction."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from detkit.predictor.instances import PredictedInstances
from detkit.predictor.sources import Item
from detkit.registry import DataError
from detkit.structures import Prediction, Sample

logger = logging.getLogger(__name__)
T = TypeVar("T")


def readable(
    items: Iterable[Item], sample: Callable[[Item], Sample], skip_unreadable: bool | None
) -> Iterator[tuple[Item, Sample]]:
    """Each image with its sample.

    Args:
        items: the images.
        sample: reads one.
        skip_unreadable: a file that cannot be read is left out, with a warning; else it raises DataError, which names
            this option unless it is None.
    """
    for item in items:
        try:
            made = sample(item)
        except DataError as error:
            if not skip_unreadable:
                fix = "" if skip_unreadable is None else ". To leave out what cannot be read: skip_unreadable=True"
                raise DataError(f"{error}{fix}") from None
            logger.warning("left out: %s", error)
            continue
        yield item, made


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size``, the last one shorter. Where ``items`` raise ValueError, what came before is given first."""
    batch: list[T] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    except ValueError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def with_names(
    prediction: Prediction, item: Item, class_names: Sequence[str], category_ids: Sequence[int] | None
) -> Prediction:
    """The prediction of ``item``, which says what it is of, and whose instances know the names of their classes."""
    found = prediction.instances
    if found is not None:
        found = PredictedInstances(
            found.image_size,
            class_names=class_names,
            category_ids=category_ids,
            reading=item.reading,
            channel_order=item.channel_order,
            info=found.info,
            **found.fields,
        )
    return dataclasses.replace(prediction, instances=found, file_name=item.file_name, frame=item.frame)
