"""Leaving in good order when a cluster, or Ctrl-C, asks a training to stop."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sized
from types import FrameType
from typing import TypeVar

import torch
import torch.distributed as dist

from detkit.signals import SIGNALS, exit_code
from detkit.utils import distributed

T = TypeVar("T", covariant=True)


class Interrupted(BaseException):
    """A training was asked to stop before its end, and has saved what it needs to go on.

    No Exception, so that whatever goes on after a failure of its own does not take this for one.

    Attributes:
        number: the signal.
        exit_code: for the process; see ``detkit.signals.exit_code``.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}; --resume goes on from here")
        self.number = number
        self.exit_code = exit_code(number)


class Interruption:
    """Listens to SIGTERM, SIGUSR1 (Slurm's usual warning) and Ctrl-C while its ``with`` block runs.

    A signal only leaves a note. The trainer asks ``check`` at the end of every step, where there is something whole to
    save. Several processes must stop at the same step, although the signal may reach one of them alone or each at
    another time: they exchange their notes in an all-reduce of one number that is started at the end of a step and
    read at the end of the next one, so no process waits, and no device is involved. A second Ctrl-C ends at once; once
    all is saved, further signals change nothing.

    Handlers can be set in the main thread alone; in another thread nothing is listened to.

    Attributes:
        error: what this process asked all to stop for; see ``fail``.
    """

    def __init__(self) -> None:
        self._noted = 0
        self.error: Exception | None = None
        self._listens = self._at_once = self._has_left = False
        self._context: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        self._group: dist.ProcessGroup | None = None
        self._notes: torch.Tensor | None = None
        self._work: dist.Work | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listens while its block runs, also before and after a training in it: for as long as a process lives."""
        if self._listens:
            yield
            return
        self._noted, self._has_left, self._listens = 0, False, True
        before = {}
        try:
            if threading.current_thread() is threading.main_thread():
                before = {number: signal.signal(number, self._note) for number in SIGNALS}
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._listens = False

    def __enter__(self) -> "Interruption":
        self._context = self.listening()
        self._context.__enter__()
        if distributed.world_size() > 1:
            self._group = dist.new_group(backend="gloo")  # type: ignore[assignment]  # of all ranks, so of this one
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        left = kind is not None and issubclass(kind, Interrupted)
        self._has_left = left
        if self._group is not None and (kind is None or left):  # else no process may answer
            if self._work is not None:
                self._work.wait()
            dist.destroy_process_group(self._group)
        self._group = self._work = None
        self._context.__exit__(None, None, None)

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

    def fail(self, error: Exception) -> None:
        """Has all processes save and stop together, as after a signal; this one's trainer then raises ``error``."""
        self.error = self.error or error
        self._noted = self._noted or signal.SIGTERM

    def watch(self, batches: Iterable[T]) -> Iterable[T]:
        """``batches``, which end by Interrupted when a signal comes meanwhile: for what takes longer than a step.

        With several processes they go on to their end, because the others would wait.
        """
        return _SizedWatched(batches, self) if isinstance(batches, Sized) else _Watched(batches, self)

    @contextlib.contextmanager
    def at_once(self, patience: float = 0.0) -> Iterator[None]:
        """Within it a signal raises Interrupted wherever the process stands, in a run of one process.

        For waiting, and for what is done again by a resume: nothing in it may need to come to its end.

        Args:
            patience: seconds that it may take where the signal came before.
        """
        later = None
        if self._noted and distributed.world_size() == 1:
            if not patience or not hasattr(signal, "pthread_kill"):
                raise Interrupted(self._noted)
            later = threading.Timer(patience, signal.pthread_kill, (threading.get_ident(), signal.SIGTERM))
            later.daemon = True
            later.start()
        before, self._at_once = self._at_once, True
        try:
            yield
        finally:
            self._at_once = before
            if later is not None:
                later.cancel()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._has_left:
            return
        if number == signal.SIGINT and self._noted == signal.SIGINT:
            raise KeyboardInterrupt("stopped at once; --resume goes on from the last checkpoint, if there is one")
        if not (self._noted and number == signal.SIGTERM):  # which may be the reminder of a signal of before
            self._noted = number
        if self._at_once and distributed.world_size() == 1:
            self._at_once = False
            raise Interrupted(self._noted)
        words = f"\n{signal.Signals(number).name}: finishing this step, then saving"
        words += "; Ctrl-C again stops at once\n" if number == signal.SIGINT else "\n"
        if distributed.is_main():
            with contextlib.suppress(OSError):
                os.write(2, words.encode())  # logging may be what was just interrupted


class _Watched(Iterable[T]):
    def __init__(self, batches: Iterable[T], interruption: Interruption):
        self._batches, self._interruption = batches, interruption

    def __iter__(self) -> Iterator[T]:
        batches = iter(self._batches)
        while True:
            with self._interruption.at_once():  # also while it waits for a batch, which may never come
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch


class _SizedWatched(_Watched[T]):
    def __len__(self) -> int:
        assert isinstance(self._batches, Sized)
        return len(self._batches)
