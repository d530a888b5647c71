"""Loaders: batches of samples, made ahead by worker processes."""

import copy
import dataclasses
import itertools
import logging
import traceback
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from typing import Any

from torch.utils.data import Dataset as TorchDataset

from detkit.config import broken_contract
from detkit.data.errors import SampleError
from detkit.data.interfaces import Dataset, Sampler
from detkit.data.left_out import LeftOutCounter
from detkit.data.mapper import Mapper
from detkit.data.read_ahead import ReadAhead
from detkit.data.samplers import inference_batches
from detkit.registry import DataError
from detkit.structures import FailedBatch, Sample

logger = logging.getLogger(__name__)

Batches = Iterable[list[tuple[int, int]]]
SKIP_HINT = "To leave out images that cannot be read: data.skip_unreadable=true"


@dataclasses.dataclass(frozen=True)
class _Failure:
    """An error's words, carried out of a worker without the traceback that torch would wrap around them.

    ``instead`` is a sample of the next image that can be read, where ``words`` are of one that cannot.
    """

    words: str
    traceback: str = ""
    instead: Sample | None = None

    def error(self) -> Exception:
        """The error again; one that has no word of its own for what happened, with its traceback."""
        if not self.traceback:
            return DataError(f"{self.words}. {SKIP_HINT}")
        error = SampleError(self.words)
        error.__cause__ = RuntimeError(f"in a loader process:\n{self.traceback}")
        return error


class _Mapped(TorchDataset):  # type: ignore[type-arg]
    def __init__(self, mapper: Mapper):
        self.mapper = mapper

    def __getitem__(self, item: tuple[int, int]) -> "Sample | _Failure":
        sample = self._sample(*item)
        if isinstance(sample, _Failure) and not sample.traceback:
            (epoch, index), images = item, len(self.mapper.dataset)
            others = (self._sample(epoch, (index + step) % images) for step in range(1, min(images, _MOST_IN_A_ROW)))
            instead = next((other for other in others if isinstance(other, Sample)), None)
            return dataclasses.replace(sample, instead=instead)
        return sample

    def _sample(self, epoch: int, index: int) -> "Sample | _Failure":
        try:
            return self.mapper(epoch, index)
        except DataError as error:
            return _Failure(str(error))
        except SampleError as error:
            return _Failure(str(error), "".join(traceback.format_exception(error.__cause__ or error)))


_MOST_IN_A_ROW = 20
"""More images in a row that cannot be read are no damage of single files, and end the run whatever it allows."""


@dataclasses.dataclass(frozen=True)
class _From:
    """A sampler's batches from one of them on, again and again the same.

    The batches of ``earlier`` are drawn with their own size, as one process draws them, so that what follows is what
    has not been seen, whatever the sampler's order.
    """

    sampler: Sampler
    start: int
    earlier: Sequence[tuple[int, int]] = ()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        sampler, left = copy.copy(self.sampler), self.start
        stream = iter(sampler.__iter__())  # which may give a list
        sampler.rank, sampler.world_size = 0, 1
        for number, batch_size in self.earlier:
            sampler.batch_size = batch_size
            left -= sum(1 for _ in itertools.islice(stream, number))
        own = self.sampler
        sampler.batch_size, sampler.rank, sampler.world_size = own.batch_size, own.rank, own.world_size
        for batch in itertools.islice(stream, left, None):
            _check_batch(batch, own)
            if self.earlier and len(batch) != own.batch_size:
                raise DataError(
                    f"data.batch_size: {type(own).__name__} cannot go on with other batches than before, as it reads"
                    " its batch_size once: resume with the batch size that the run had"
                )
            yield batch


def _check_batch(batch: Any, sampler: Sampler) -> None:
    """Raises ConfigError for what a sampler must not give."""
    number = len(sampler.dataset)
    if not (isinstance(batch, list) and batch and all(_is_item(item, number) for item in batch)):
        words = f"expected batches, each a list of (epoch, index), ints, index below {number}, got {batch!r:.100}"
        raise broken_contract(sampler, words)


def _is_item(item: Any, number: int) -> bool:
    if not (isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, Integral) for part in item)):
        return False
    return 0 <= item[1] < number


class _Loader(ReadAhead):
    """Batches of samples. An image that cannot be read raises; or ``skip`` logs it, or ``defer`` fails its batch."""

    def __init__(self, mapper: Mapper, batches: Batches, num_workers: int, *, skip: bool, defer: bool = False):
        super().__init__(_Mapped(mapper), batches, num_workers, mapper.seed)
        self._skip, self._defer = skip, defer
        self._logged: set[str] = set()

    def __iter__(self) -> Iterator[list[Sample]]:
        return map(self._checked, super().__iter__())

    def _checked(self, batch: Sequence[Any]) -> list[Sample]:
        failures = [item for item in batch if isinstance(item, _Failure)]
        if not failures:
            return list(batch)
        for failure in failures:
            if failure.instead is None or not (self._skip or self._defer):
                raise failure.error()
            if self._skip and failure.words not in self._logged:
                self._logged.add(failure.words)
                logger.warning("left out (%d by now): %s", len(self._logged), failure.words)
        replaced: list[Any] = [item.instead if isinstance(item, _Failure) else item for item in batch]
        return self._samples(batch, replaced) if self._skip else FailedBatch(replaced, failures[0].error())

    def _samples(self, batch: Sequence[Any], replaced: list[Sample]) -> list[Sample]:
        """The samples of a batch with failures; ``replaced`` has other images in the place of these."""
        return replaced


class _TrainLoader(_Loader):
    """Counts the objects that are left out of the loss."""

    def __iter__(self) -> Iterator[list[Sample]]:
        left_out = LeftOutCounter()
        for batch in super().__iter__():
            for sample in batch:
                left_out.add(sample)
            left_out.log()
            yield batch


class _TestLoader(_Loader):
    """Has a length, and gives no image twice."""

    def __len__(self) -> int:
        return len(self._loader)

    def _samples(self, batch: Sequence[Any], replaced: list[Sample]) -> list[Sample]:
        return [item for item in batch if isinstance(item, Sample)] or replaced[:1]  # no process may lack a batch


def train_loader(
    dataset: Dataset,
    mapper: Mapper,
    sampler: Sampler,
    num_workers: int = 0,
    start_batch: int = 0,
    earlier: Sequence[tuple[int, int]] = (),
    *,
    skip_unreadable: bool = False,
    defer_errors: bool = False,
) -> Iterable[list[Sample]]:
    """Endless batches in the sampler's order.

    Args:
        dataset: what is read.
        mapper: turns a record into a sample.
        sampler: which images make up a batch of this rank.
        num_workers: processes that read ahead; 0 reads in this one. It changes nothing in what is read.
        start_batch: how many batches have been seen before, by a run that is resumed.
        earlier: those of them that had another size: (number of batches, images a batch over all processes), in order.
        skip_unreadable: an image that cannot be read is named in the log, and the next one stands for it.
        defer_errors: it stands for it in a ``FailedBatch``, so that processes which go in step can all end.

    Raises (at iteration):
        DataError: an image cannot be read; the message is the dataset's own, whichever process met it.
        SampleError: another error while a sample was made; names the file, the annotations and the augmentation.
        WorkerError: a loader process died or could not begin; says which limit of the machine it met.
    """
    if len(dataset) == 0:
        raise DataError("the training dataset has no images")
    batches = _From(sampler, start_batch, earlier)
    return _TrainLoader(mapper, batches, num_workers, skip=skip_unreadable, defer=defer_errors)


def test_loader(
    dataset: Dataset,
    mapper: Mapper,
    batch_size: int = 1,  # noqa: PT028
    num_workers: int = 0,  # noqa: PT028
    rank: int = 0,  # noqa: PT028
    world_size: int = 1,  # noqa: PT028
    skip_unreadable: bool = False,  # noqa: PT028
) -> Iterable[list[Sample]]:
    """Every image once over all ranks, in order; has a ``len``, in batches.

    Args:
        dataset: what is read.
        mapper: turns a record into a sample.
        batch_size: images a batch; the last one may be smaller.
        num_workers: processes that read ahead; 0 reads in this one.
        rank: this process's number.
        world_size: how many processes share the images.
        skip_unreadable: an image that cannot be read is named in the log and left out. A batch never becomes empty:
            if none of its images can be read, the next one that can stands for them.

    Raises (at iteration):
        DataError: an image cannot be read.
    """
    batches = inference_batches(len(dataset), batch_size, rank, world_size)
    return _TestLoader(mapper, batches, num_workers, skip=skip_unreadable)


test_loader.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever pytest thinks of its name
