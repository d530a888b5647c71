"""How a tool ends: a user's mistake gives its message and no stack trace."""

import sys
from collections.abc import Callable

from detkit.registry import ConfigError, DataError


def run(main: Callable[[], int]) -> int:
    """Runs a tool's ``main``.

    Returns:
        What ``main`` returns; 2 after a mistake in config or data, or a loss that is not
        finite (the message goes to stderr); 130 after Ctrl-C.
    """
    try:
        return main()
    except (ConfigError, DataError, FloatingPointError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
