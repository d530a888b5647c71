"""Issue: one thing that is wrong with a dataset. A dataset that is to be used raises it, the doctor collects it."""

from collections.abc import Callable
from typing import Literal

from detkit.registry import DataError


class Issue(DataError):
    """What is wrong, so that it can be raised as well as listed. The message is ``place: what; fix``.

    Args:
        kind: a few words that all issues of one kind share, e.g. ``"unknown category"``.
        place: the file, or another name of the data.
        entry: the entry in it, e.g. ``"annotation 5"``; empty for the file itself.
        what: what is wrong, naming the entry.
        fix: what the user can do; empty where ``what`` says it.
        severity: ``warning`` where the reader's options say what becomes of the entry, so that reading goes on.
        source: the data that it is one of, where ``place`` names a single entry of them; empty: ``place``.
    """

    def __init__(
        self,
        kind: str,
        place: str,
        entry: str,
        what: str,
        fix: str = "",
        severity: Literal["error", "warning"] = "error",
        source: str = "",
    ):
        super().__init__(f"{place}: {what}{'; ' if fix else ''}{fix}")
        self.kind, self.place, self.entry, self.what, self.fix = kind, place, entry, what, fix
        self.severity: Literal["error", "warning"] = severity
        self.source = source or place

    def __reduce__(self) -> tuple[type["Issue"], tuple[str, ...]]:
        return Issue, (self.kind, self.place, self.entry, self.what, self.fix, self.severity, self.source)


Report = Callable[[Issue], None]
"""Takes an issue. Where it returns, the reader leaves the entry out and goes on."""


def raise_errors(issue: Issue) -> None:
    """The report of a dataset that is to be used: raises the first issue that is an error."""
    if issue.severity == "error":
        raise issue
