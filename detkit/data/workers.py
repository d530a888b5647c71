"""Loader processes: whether they can begin, the signals that they never see, what they say, and how they end."""

import contextlib
import functools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import AuthenticationError, queues
from types import FunctionType, TracebackType
from typing import Any

from detkit.data.transfer import remedy
from detkit.registry import ConfigError
from detkit.signals import SIGNALS

_GUARD = (
    "loader processes are not forked on this system: each imports the script that started it, and must not do its work"
    ' again. Put that below\n    if __name__ == "__main__":\nor set data.num_workers=0'
)


def check_guarded() -> None:
    """Raises ConfigError while a process that is not forked imports the script of the one that started it."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # what multiprocessing itself asks
        raise ConfigError(_GUARD)


def check_can_begin(source: Any) -> None:
    """Raises before processes begin that would end at once, for which multiprocessing may wait for ever.

    Where they are not forked (macOS, Windows) they import the script, and find classes and functions by their names.

    Raises:
        ConfigError: they cannot begin, or ``source`` holds what they would not find.
    """
    check_guarded()
    if multiprocessing.get_start_method() == "fork":
        return
    main = sys.modules["__main__"]
    if getattr(main, "__file__", None) is None and getattr(main, "__spec__", None) is None:
        unpicklable = (pickle.PicklingError, AttributeError, TypeError, RuntimeError)
        with open(os.devnull, "wb") as nowhere, contextlib.suppress(*unpicklable):
            _NamesAlone(nowhere).dump(source)
    _begin_one()


class _NamesAlone(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        """Asked for each object. Raises ConfigError for a class or function of a notebook."""
        if isinstance(obj, type | FunctionType) and obj.__module__ == "__main__":
            raise ConfigError(
                f"{obj.__qualname__} is defined in a notebook or at a prompt, where loader processes, which are not"
                " forked on this system, do not find it: put it into a file that the config names under imports, or set"
                " data.num_workers=0"
            )
        return NotImplemented


@functools.cache
def _begin_one() -> None:
    """Lets a process begin that has little to read and nothing to do."""
    process = multiprocessing.Process(target=os.getpid)
    process.start()
    process.join()
    if process.exitcode:
        words = f"a process ended as it began, with code {process.exitcode}; what it said stands above"
        raise ConfigError(f"{words}. Mostly it is this: {_GUARD}")


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
