"""Leaving in good order when a cluster, or Ctrl-C, asks a training to stop."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sized
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from detkit.utils import distributed

T = TypeVar("T", covariant=True)

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: "try again later". Neither success, which is not started again, nor an error (1, 2)."""


class Interrupted(Exception):
    """A training was asked to stop before its end, and has saved what it needs to go on.

    Attributes:
        number: the signal.
        exit_code: for the process: 130 after Ctrl-C, as everywhere; else ``EXIT_CODE``.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}; --resume goes on from here")
        self.number = number
        self.exit_code = 130 if number == signal.SIGINT else EXIT_CODE


class Interruption:
    """Listens to SIGTERM, SIGUSR1 (Slurm's usual warning) and Ctrl-C while its ``with`` block runs.

    A signal only leaves a note. The trainer asks ``check`` at the end of every step, where there is something whole to
    save. Several processes must stop at the same step, although the signal may reach one of them alone or each at
    another time: they exchange their notes in an all-reduce of one number that is started at the end of a step and
    read at the end of the next one, so no process waits, and no device is involved. A second Ctrl-C ends at once.

    Handlers can be set in the main thread alone; in another thread nothing is listened to.
    """

    def __init__(self) -> None:
        names = ("SIGTERM", "SIGUSR1", "SIGINT")  # Windows has no SIGUSR1
        self.signals = tuple(getattr(signal, name) for name in names if hasattr(signal, name))
        self._noted = 0
        self._before: dict[int, Any] = {}
        self._group: dist.ProcessGroup | None = None
        self._notes: torch.Tensor | None = None
        self._work: dist.Work | None = None

    def __enter__(self) -> "Interruption":
        self._noted = 0
        if distributed.world_size() > 1:
            self._group = dist.new_group(backend="gloo")  # type: ignore[assignment]  # of all ranks, so of this one
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.signals}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
        if self._group is not None and (kind is None or issubclass(kind, Interrupted)):  # else no process may answer
            if self._work is not None:
                self._work.wait()
            dist.destroy_process_group(self._group)
        self._group = self._work = None

    def check(self) -> None:
        """Raises Interrupted if the run is to stop here. All ranks must call it at the end of every step."""
        agreed = self._noted if self._group is None else 0
        if self._work is not None and self._notes is not None:
            self._work.wait()
            agreed = int(self._notes.item())
        if self._group is not None:
            self._notes = torch.tensor([self._noted])
            self._work = dist.all_reduce(self._notes, dist.ReduceOp.MAX, self._group, async_op=True)
        if agreed:
            raise Interrupted(agreed)

    def watch(self, batches: Iterable[T]) -> Iterable[T]:
        """``batches``, which end by Interrupted when a signal comes meanwhile: for what takes longer than a step.

        With several processes they go on to their end, because the others would wait.
        """
        return _SizedWatched(batches, self) if isinstance(batches, Sized) else _Watched(batches, self)

    def check_alone(self) -> None:
        """Raises Interrupted after a signal, in a run of one process; for where there is no step to end."""
        if self._noted and self._before and self._group is None:
            raise Interrupted(self._noted)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._noted == signal.SIGINT:
            raise KeyboardInterrupt
        self._noted = number
        words = f"\n{signal.Signals(number).name}: finishing this step, then saving"
        words += "; Ctrl-C again stops at once\n" if number == signal.SIGINT else "\n"
        if distributed.is_main():
            os.write(2, words.encode())  # logging may be what was just interrupted


class _Watched(Iterable[T]):
    def __init__(self, batches: Iterable[T], interruption: Interruption):
        self._batches, self._interruption = batches, interruption

    def __iter__(self) -> Iterator[T]:
        for batch in self._batches:
            self._interruption.check_alone()
            yield batch


class _SizedWatched(_Watched[T]):
    def __len__(self) -> int:
        assert isinstance(self._batches, Sized)
        return len(self._batches)
