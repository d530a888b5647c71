"""Starting a tool as several processes on this machine, by torchrun's own launcher."""

import contextlib
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from detkit.command_line import EXIT_CODES, exit_codes
from detkit.utils.environment import cores


def launch(program: Sequence[str], arguments: Sequence[str], num_processes: int, max_restarts: int = 0) -> int:
    """Runs ``program`` in ``num_processes`` processes, as ``torchrun --standalone`` does, and waits for them.

    The processes share the cores: each gets its part as threads, unless ``OMP_NUM_THREADS`` says how many. When one
    dies the others are ended and, ``max_restarts`` times, all are started again. SIGTERM, and SIGUSR1 (of Slurm), go on
    to all processes, which are killed 30 seconds later.

    Args:
        program: what Python runs: a file, or ``-m`` and a module.
        arguments: its command line.
        num_processes: how many.
        max_restarts: how often a dead process may be replaced.

    Returns:
        0 when all went well; else the exit code of the process that failed first, whose error is printed, or 128 plus
        the signal that ended it. After a signal to the launcher the code with which all processes left, if it is one,
        as after a checkpoint has been saved; else 128 plus the signal.

    Raises:
        ValueError: a number that makes no sense.
    """
    if num_processes < 1 or max_restarts < 0:
        raise ValueError(f"expected at least 1 process and 0 restarts, got {num_processes} and {max_restarts}")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # a free port
        local_addr="127.0.0.1",
        max_restarts=max_restarts,
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            with _environment(num_processes, folder):
                elastic_launch(config, sys.executable)("-u", *program, *arguments)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            print(f"rank {rank} failed first: {_message(failure)}", file=sys.stderr)
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        except SignalException as error:
            left = exit_codes(folder)  # torch's launcher has waited for the processes, and drops their codes
            return left[0] if len(left) == num_processes and len(set(left)) == 1 else 128 + int(error.sigval)
    return 0


@contextlib.contextmanager
def _environment(num_processes: int, folder: str) -> Iterator[None]:
    """Sets the variables that processes inherit (threads, folder for exit codes) and the signal; restores them."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(cores() // num_processes, 1))
    variables = {"OMP_NUM_THREADS": threads, EXIT_CODES: folder}
    before = {name: os.environ.pop(name, None) for name in variables}
    slurms = [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []  # which Windows has not
    handlers = {number: signal.signal(number, _stop) for number in slurms}
    os.environ.update(variables)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, value in before.items():
            del os.environ[name]
            os.environ.update({} if value is None else {name: value})


def _stop(number: int, frame: Any) -> None:
    """As torch's launcher does for SIGTERM: its loop sends the processes the signal and ends."""
    raise SignalException(f"process {os.getpid()} got signal {number}", signal.Signals(number))


def _message(failure: ProcessFailure) -> str:
    """The error's own message, where the process could write it."""
    message: Any = failure.message
    if failure.exitcode < 0:
        return f"ended by {failure.signal_name()} (if nobody sent it: for want of memory)"
    if isinstance(message, dict):
        return str(message["message"])
    none = not message or "To enable traceback" in message  # torch's words for a process that left by itself
    return f"exit code {failure.exitcode}" if none else str(message)
