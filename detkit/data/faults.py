"""Fault: one thing that is wrong with a dataset, and what is done about it: a reader stops, an examiner collects."""

from collections.abc import Callable

from detkit.registry import DataError


class Fault(DataError):
    """What is wrong, so that it can be raised as well as listed.

    Args:
        kind: a few words that all faults of one kind share, e.g. ``"unknown category"``.
        place: the file.
        entry: the entry in it, e.g. ``"annotation 5"``; empty for the file itself.
        words: what is wrong and the way out; the message is ``place: words``.
        serious: False where the reader's options say what becomes of it, so that reading goes on.
    """

    def __init__(self, kind: str, place: str, entry: str, words: str, serious: bool = True):
        super().__init__(f"{place}: {words}")
        self.kind, self.place, self.entry, self.words, self.serious = kind, place, entry, words, serious

    def __reduce__(self) -> tuple[type["Fault"], tuple[str, str, str, str, bool]]:
        return Fault, (self.kind, self.place, self.entry, self.words, self.serious)


Report = Callable[[Fault], None]
"""Takes a fault. Where it returns, the reader leaves the entry out and goes on."""


def stop_at(fault: Fault) -> None:
    """The report of a dataset that is to be used: raises the first serious fault."""
    if fault.serious:
        raise fault
