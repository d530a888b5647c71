"""What signals do to a tool's process while no training listens to them; see ``detkit.engine.Interruption``."""

import atexit
import os
import signal
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
_left = False


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
        os._exit(130 if number == signal.SIGINT else 75)  # as a training does, see detkit.engine.EXIT_CODE
