"""Reading ahead: worker processes make batches while the model works on the one before."""

import contextlib
import gc
import logging
import multiprocessing
import pickle
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from detkit.data.errors import worker_error
from detkit.data.transfer import PackedBatch, remedy
from detkit.data.workers import (
    allow_many_files,
    check_can_begin,
    end_with_a_lost_batch,
    outlast_signals,
    quiet_about_the_run,
    signals_blocked,
)
from detkit.registry import ConfigError, DataError
from detkit.structures import Sample

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ReadAhead(Iterable[list[Any]]):
    """Batches of what a source gives for their items, made ahead by worker processes, in the order of the batches.

    Args:
        source: ``source[item]`` is what workers do; they are forked with it, or where that is not possible, get a copy.
        batches: lists of items; they are taken as the workers need them.
        num_workers: processes that read ahead; 0 reads in this one.
        seed: of torch's generator in the workers.

    Raises (at iteration):
        ConfigError: loader processes that are not forked cannot begin; see ``check_can_begin``.
        WorkerError: a loader process died or could not begin; says which limit of the machine it met.
    """

    def __init__(self, source: TorchDataset[Any], batches: Iterable[Sequence[Any]], num_workers: int, seed: int = 0):
        if num_workers:
            allow_many_files()
        self._warned = False
        self._loader: DataLoader[Any] = DataLoader(
            source,
            batch_sampler=batches,  # type: ignore[arg-type]
            num_workers=num_workers,
            collate_fn=PackedBatch if num_workers else _as_it_is,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            persistent_workers=num_workers > 0,
            generator=torch.Generator().manual_seed(seed),  # else each pass would draw from the global one
        )

    def __iter__(self) -> Iterator[list[Any]]:
        workers, stream = self._loader.num_workers, None
        if workers:
            check_can_begin(self._loader.dataset)
        try:
            with signals_blocked():
                if workers:  # which torch's own object, half made, would complain about as the program ends
                    multiprocessing.Queue().close()
                stream = iter(self._loader)
            while True:
                batch = next(stream, None)
                if batch is None:
                    return
                yield batch if workers == 0 else self._unpacked(batch)
        except (RuntimeError, OSError, EOFError, MemoryError) as error:
            died = worker_error(error, workers)
            if died is None:
                raise
            with contextlib.suppress(
                RuntimeError
            ):  # the others end first, so that what they say comes before the error
                getattr(stream, "_shutdown_workers", lambda: None)()
            raise died from error
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if stream is not None or "pickle" not in str(error):
                raise
            raise ConfigError(
                "loader processes, which are not forked on this system, get a copy of dataset and augmentations, and"
                f" there is none of a part of these ({error}): keep locks, open files and functions within functions"
                " out of them, or set data.num_workers=0"
            ) from error

    def _unpacked(self, packed: PackedBatch) -> list[Any]:
        if packed.shortage and not self._warned:
            self._warned = True
            words = "batches come through pipes instead of shared memory, which is slower"
            logger.warning("%s. %s (%s)", words, remedy(packed.shortage), packed.shortage)
        return packed.batch()


class _Reader(TorchDataset[Any]):
    def __init__(self, read: Callable[[Any], Sample]):
        self.read = read

    def __getitem__(self, item: Any) -> tuple[Any, Sample | str]:
        try:
            return item, self.read(item)
        except DataError as error:
            return item, str(error)


def read_ahead(
    read: Callable[[T], Sample], batches: Iterable[Sequence[T]], num_workers: int = 0
) -> Iterable[list[tuple[T, Sample | str]]]:
    """Every item with what ``read`` makes of it, batch by batch; the words of a DataError take the place of a sample.

    Args and errors are those of ``ReadAhead``.
    """
    return ReadAhead(_Reader(read), batches, num_workers)


def _as_it_is(batch: list[Sample]) -> list[Sample]:
    return batch


def _start_worker(worker: int) -> None:
    gc.freeze()  # what the main process made is no garbage here, and looking for some would copy its pages
    torch.set_num_threads(1)  # the workers share the cores with the training process and with each other
    sys.excepthook = quiet_about_the_run
    end_with_a_lost_batch()
    if threading.current_thread() is threading.main_thread():
        outlast_signals()
