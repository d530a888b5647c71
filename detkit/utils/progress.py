"""How far a loop is: a bar in a terminal, a line now and then in a log."""

import datetime
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
logger = logging.getLogger(__name__)


def watched(
    items: Iterable[T], name: str, *, show: bool = True, unit: str = "it", every: float = 30.0, bar: bool | None = None
) -> Iterator[T]:
    """The items, while their progress is shown on stderr with the time left.

    Args:
        items: what is gone through; with a ``len`` the time left can be told.
        name: what is being done.
        show: False shows nothing, for other ranks than 0.
        unit: what an item is.
        every: seconds between the log's lines; what takes less has none.
        bar: None shows a bar where stderr is a terminal, else lines.
    """
    total = len(items) if isinstance(items, Sized) else None
    if not show:
        yield from items
    elif bar or (bar is None and sys.stderr.isatty()):
        yield from tqdm(items, name, total, unit=unit, dynamic_ncols=True, leave=False, file=sys.stderr)
    else:
        yield from _with_lines(items, name, total, every)


def _with_lines(items: Iterable[T], name: str, total: int | None, every: float) -> Iterator[T]:
    start = told = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - told >= every:
            told = now
            left = "" if total is None else f"/{total}  eta {_words((now - start) / done * (total - done))}"
            logger.info("%s %d%s", name, done, left)
        yield item


def _words(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=round(seconds))
