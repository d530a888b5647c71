"""The signals that ask a process to leave, and what they do while no training listens to them.

``detkit.engine.Interruption`` is what listens.
"""

import atexit
import os
import signal
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
"""SIGUSR1 is Slurm's usual warning; Windows has none."""

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: "try again later". Neither success, which is not started again, nor an error (1, 2)."""

_left = False


def exit_code(number: int) -> int:
    """The code of a process that left as this signal asked it to: 130 after Ctrl-C, as everywhere."""
    return 130 if number == signal.SIGINT else EXIT_CODE


def leave_on_signals() -> None:
    """From now on a signal ends the process, with the code of a run that was asked to leave: nothing is to be saved.

    At the end of the interpreter, where all is done, signals are ignored.
    """
    on_signals(_leave)
    atexit.register(on_signals, signal.SIG_IGN)  # registered first, it is the last of all


def has_left() -> None:
    """A run was asked to leave and has saved: further signals change neither its code nor its last line."""
    global _left
    _left = True


def on_signals(handler: Any) -> None:
    """Sets what signals do while no training listens."""
    for number in SIGNALS:
        signal.signal(number, handler)


def _leave(number: int, frame: object) -> None:
    if not _left:
        os.write(2, f"stopped by {signal.Signals(number).name}; --resume goes on from here\n".encode())
        os._exit(exit_code(number))
