"""Images in batches, and what is said of each prediction."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from detkit.predictor.instances import PredictedInstances
from detkit.predictor.sources import Item
from detkit.registry import DataError
from detkit.structures import Prediction, Sample
from detkit.utils.logging import first_line
from detkit.utils.memory import is_out_of_memory
from detkit.utils.words import amount

logger = logging.getLogger(__name__)
T = TypeVar("T")
MOST_PADDING = 4
"""Photographs of both orientations are padded to less than twice their pixels."""


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


def predictions_of(model: Callable[[list[Sample]], list[Prediction]], samples: Sequence[Sample]) -> list[Prediction]:
    """What the model predicts, in one call or several: those that are padded to one size are not mostly padding.

    Raises MemoryError, which says what a call was of and what to lower.
    """
    found: list[Prediction] = []
    for group in size_groups(samples):
        try:
            found += model(group)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            height, width = _padded_size(group)
            raise MemoryError(
                f"out of memory ({first_line(error)}) with {amount(len(group), 'image')} of up to {width} x {height}"
                " pixels at a time. Take fewer (--batch-size, in Python batch_size), tiles of large images (--tile,"
                " tile), or smaller images (data.test_augmentations)"
            ) from error
    return found


def size_groups(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """The samples in order, in lists whose padded images have at most ``MOST_PADDING`` times the pixels of the images.

    A wide and a tall image would be padded to a square of their long sides, which may take all memory.
    """
    group: list[Sample] = []
    for sample in samples:
        height, width = _padded_size([*group, sample])
        pixels = sum(math.prod(each.image.shape[-2:]) for each in (*group, sample))
        if group and (len(group) + 1) * height * width > MOST_PADDING * pixels:
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def _padded_size(samples: Sequence[Sample]) -> tuple[int, int]:
    height, width = (max(sample.image.shape[side] for sample in samples) for side in (-2, -1))
    return height, width


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
