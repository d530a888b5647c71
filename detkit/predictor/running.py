"""Images in batches, and what is said of each prediction."""

import contextlib
import dataclasses
import logging
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


@contextlib.contextmanager
def naming_batch(samples: Sequence[Sample]) -> Iterator[None]:
    """Within, an error of too little memory becomes a MemoryError that says what the batch was and what to lower."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        height, width = (max(sample.image.shape[side] for sample in samples) for side in (-2, -1))
        raise MemoryError(
            f"out of memory ({first_line(error)}) with {amount(len(samples), 'image')} of up to {width} x {height}"
            " pixels at a time. Take fewer (--batch-size, in Python batch_size), tiles of large images (--tile, tile),"
            " or smaller images (data.test_augmentations)"
        ) from error


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
