"""Loader processes: the signals that they never see, what they say, how they end, and the limit of open files."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import AuthenticationError, queues
from types import TracebackType
from typing import Any

from detkit.data.transfer import remedy
from detkit.signals import SIGNALS


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Within it signals that ask a run to leave wait. Processes that begin in it never see them, nor do threads."""
    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():  # for those that another thread receives
        handlers = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in SIGNALS}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number in came:
            signal.raise_signal(number)


def outlast_signals() -> None:
    """Signals that ask a run to leave reach its workers too, often before it has what it needs to end its step.

    They are blocked since before this process began; a worker obeys the run alone, and ends when the run is gone.
    """
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_wait_for_term, args=(os.getppid(),), daemon=True).start()
    elif hasattr(signal, "pthread_sigmask"):  # macOS, where SIGTERM keeps its default
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _wait_for_term(run: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
        pass
    os._exit(0)  # as torch's own workers do: another code would be an error in the run


def end_with_a_lost_batch() -> None:
    """Lets this process end where the thread that sends its batches fails, as the run would wait for a lost one."""
    queues.Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]  # the hook for this


def _end(error: Exception, batch: Any) -> None:
    words = f"a loader process cannot send a batch ({type(error).__name__}: {error}). {remedy(error)}"
    print(words, file=sys.stderr, flush=True)
    os._exit(1)


def allow_many_files() -> None:
    """Raises the limit of open files as far as allowed: a batch that a worker hands over holds one open."""
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def quiet_about_the_run(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A ``sys.excepthook`` for loader processes: a run that has gone while it fetched a batch is no error of theirs."""
    if not isinstance(error, EOFError | ConnectionError | AuthenticationError):
        sys.__excepthook__(kind, error, trace)
