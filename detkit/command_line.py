"""How a tool ends: a user's mistake gives its message and no stack trace."""

import os
import sys
import warnings
from collections.abc import Callable

from torch.distributed.elastic.multiprocessing.errors import record

from detkit.registry import ConfigError, DataError
from detkit.utils.distributed import launched, leave_exit_code

# Said by a library while it is imported; no user of ours can do anything about it.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)


def run(main: Callable[[], int]) -> int:
    """Runs a tool's ``main``. In a process that a launcher started, it is also told the code, and what an error said.

    Returns:
        What ``main`` returns; 2 after a mistake in config or data, a loss that is not finite, too little memory,
        or a file that cannot be read or written (the message goes to stderr); 130 after Ctrl-C.
    """
    code = _code_of(main)
    leave_exit_code(code)
    return code


def _code_of(main: Callable[[], int]) -> int:
    try:
        return record(main)() or 0 if launched() else main()
    except (ConfigError, DataError, FloatingPointError, MemoryError, OSError) as error:
        who = f"[rank {os.environ['RANK']}] " if launched() else ""
        print(f"{who}{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
