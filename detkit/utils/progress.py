"""The progress of a loop: a bar in a terminal, a line now and then in a log."""

import datetime
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from tqdm import tqdm

from detkit.utils.logging import PROGRESS

T = TypeVar("T")
logger = logging.getLogger(PROGRESS)


def in_terminal() -> bool:
    """Whether stderr is a terminal that shows bars: not one of no columns, as recorders and containers have."""
    if not sys.stderr.isatty():
        return False
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError, AttributeError):
        return True


def watched(
    items: Iterable[T],
    name: str,
    *,
    total: int | None = None,
    show: bool = True,
    unit: str = "it",
    period: float = 30.0,
    bar: bool | None = None,
    delay: float = 0.0,
) -> Iterator[T]:
    """Yields the items, while their progress is shown on stderr with the time left.

    Args:
        items: what the loop goes through.
        name: what the loop does.
        total: how many there are, so that the time left can be estimated; None: their ``len`` if they have one.
        show: False shows nothing, for other ranks than 0.
        unit: what an item is.
        period: seconds between the log's lines; a loop that takes less has none.
        bar: None shows a bar where ``in_terminal``, else lines.
        delay: seconds before a bar appears.
    """
    total = len(items) if total is None and isinstance(items, Sized) else total
    if show and (bar or (bar is None and in_terminal())):
        options: Any = {"unit": unit, "delay": delay, "dynamic_ncols": True, "leave": False, "file": sys.stderr}
        yield from tqdm(items, name, total, **options)
        return
    start = logged = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if show and done and now - logged >= period:
            logged = now
            rest = "" if total is None else datetime.timedelta(seconds=round((now - start) / done * (total - done)))
            rate = f"{done / max(now - start, 1e-9):.3g} {unit}/s"
            logger.info("%s %d%s", name, done, f"/{total}  {rate}  eta {rest}" if total else f"  {rate}")
        yield item
