"""How a tool ends: a user's mistake gives its message and no stack trace."""

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from detkit.data.errors import WorkerError
from detkit.registry import ConfigError, DataError
from detkit.utils.distributed import launched
from detkit.utils.logging import setup_console

EXIT_CODES = "DETKIT_EXIT_CODES"
"""The environment variable by which a launcher names a folder where its processes leave their exit codes."""


def leave_exit_code(code: int) -> None:
    """Writes the code with which this process is about to end for its launcher, if that has a folder for it."""
    folder = os.environ.get(EXIT_CODES)
    if folder and launched():
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        with contextlib.suppress(OSError):  # a launcher that has ended removed the folder
            Path(folder, f"{start}.{os.environ['RANK']}").write_text(str(code))


def exit_codes(folder: str | Path) -> list[int]:
    """The codes in ``folder`` of the processes that were started last, in no order."""
    left = [(int(path.name.partition(".")[0]), path.read_text()) for path in Path(folder).iterdir()]
    last = max((start for start, _ in left), default=0)
    return [int(code) for start, code in left if start == last and code]  # none where a process was killed as it wrote


def run(main: Callable[[], int]) -> int:
    """Runs a tool's ``main``. A launcher that started the process gets the code, and the message of an error.

    Characters that the console's encoding lacks are written as escapes, and warnings and progress go to stderr.

    Returns:
        What ``main`` returns; 2 after a mistake in config or data, a loss that is not finite, too little memory,
        a file that cannot be read or written, or an extra that is missing (the message goes to
        stderr); 130 after Ctrl-C; 141 where nobody reads on.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    setup_console()
    code = _code_of(main)
    leave_exit_code(code)
    return code


def _code_of(main: Callable[[], int]) -> int:
    try:
        return record(main)() or 0 if launched() else main()
    except BrokenPipeError:  # who reads has seen enough, as ``head`` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 and SIGPIPE
    except (ConfigError, DataError, WorkerError, FloatingPointError, MemoryError, OSError) as error:
        who = f"[rank {os.environ['RANK']}] " if launched() else ""
        print(f"{who}{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        if "detkit[" not in str(error):  # the message of an extra that is not installed
            raise
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return 130
