"""The parity report: rows of differences, their verdict, and how they are shown."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal

from tabulate import tabulate

Verdict = Literal["ok", "inherits", "DIFFERS"]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far two results of one stage are apart.

    Args:
        largest: over everything that has a counterpart; infinite where shapes differ or a number is not finite.
        unmatched: of both sides together, what has no counterpart; only sets of boxes have such.
        count: the size of both sets together.
        tied: how many of the unmatched are excused: rounding decided which of several equals was kept.
    """

    largest: float
    unmatched: int = 0
    count: int = 0
    tied: int = 0

    def __or__(self, other: "Difference") -> "Difference":
        """Both, as one: the larger difference, and all that is unmatched."""
        return Difference(
            max(self.largest, other.largest),
            self.unmatched + other.unmatched,
            self.count + other.count,
            self.tied + other.tied,
        )

    def within(self, tolerance: float) -> bool:
        """Whether everything has a counterpart, within ``tolerance``, or is a tie."""
        return self.largest <= tolerance and self.unmatched == self.tied

    def __str__(self) -> str:
        number = f"{self.largest:.1e}" if math.isfinite(self.largest) else "not comparable"
        if self.count and self.unmatched == self.count:
            number = "-"
        lost = self.unmatched - self.tied
        words = [f"{lost} of {self.count} unmatched"] if lost else []
        return ", ".join([number, *words, *([f"{self.tied} of {self.count} tied"] if self.tied else [])])


@dataclasses.dataclass(frozen=True)
class Row:
    """One stage of the parity report.

    Args:
        stage: its name.
        measure: what a difference is: relative (to the reference's largest value), pixels, probability, 1 - IoU.
        tolerance: the largest difference that counts as equal.
        end_to_end: where both sides worked from the image alone; None where that cannot be said.
        isolated: where detkit's stage was given the reference's own input; None where that cannot be done.
    """

    stage: str
    measure: str
    tolerance: float
    end_to_end: Difference | None = None
    isolated: Difference | None = None

    @property
    def verdict(self) -> Verdict:
        """``ok``; ``inherits``: the stage is right, but an earlier one is not; ``DIFFERS``: the stage itself."""
        if self.isolated is not None and not self.isolated.within(self.tolerance):
            return "DIFFERS"
        if self.end_to_end is None or self.end_to_end.within(self.tolerance):
            return "ok"
        return "DIFFERS" if self.isolated is None else "inherits"

    def __or__(self, other: "Row") -> "Row":
        """The same stage on more images."""
        both = [(self.end_to_end, other.end_to_end), (self.isolated, other.isolated)]
        joined = [a if b is None else b if a is None else a | b for a, b in both]
        return dataclasses.replace(self, end_to_end=joined[0], isolated=joined[1])

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; an infinite difference is null."""
        return {**dataclasses.asdict(self, dict_factory=_plain), "verdict": self.verdict}


class Report:
    """A parity report. ``str(report)`` is its table with the verdict below.

    Args:
        reference: what detkit was compared with.
        rows: the stages, in the order of computation.
        notes: sentences on what was left out, or was set on both sides.
    """

    def __init__(self, reference: str, rows: Iterable[Row] = (), notes: Iterable[str] = ()):
        self.reference, self.notes = reference, list(notes)
        self._rows = {row.stage: row for row in rows}

    @property
    def rows(self) -> tuple[Row, ...]:
        """The stages, in the order in which they first came."""
        return tuple(self._rows.values())

    def add(self, stage: str, *row: Any) -> None:
        """Notes the differences of a stage, on one more image; see ``Row`` for what follows its name."""
        added = Row(stage, *row)
        self._rows[stage] = self._rows[stage] | added if stage in self._rows else added

    @property
    def equal(self) -> bool:
        """Whether every stage is within its tolerance, alone and end to end."""
        return bool(self.rows) and all(row.verdict == "ok" for row in self.rows)

    @property
    def verdict(self) -> str:
        """One sentence."""
        wrong = [row.stage for row in self.rows if row.verdict == "DIFFERS"]
        if wrong:
            more = f" (and so do: {', '.join(wrong[1:])})" if wrong[1:] else ""
            return f"DIFFERS from {self.reference}: the first stage that computes something else is {wrong[0]}{more}"
        inherited = [row.stage for row in self.rows if row.verdict == "inherits"]
        if inherited:
            return (
                f"DIFFERS from {self.reference} end to end, from {inherited[0]} on, although each stage alone computes "
                "the same: small differences of earlier stages have grown"
            )
        return f"the same as {self.reference}, at every stage" if self.rows else "nothing was compared"

    def __str__(self) -> str:
        header = ("stage", "end to end", "on the reference's input", "tolerance", "")
        rows = [(r.stage, _cell(r.end_to_end), _cell(r.isolated), f"{r.tolerance:g} {r.measure}", r.verdict)
                for r in self.rows]  # fmt: skip
        table = tabulate(rows, header, tablefmt="simple", disable_numparse=True)
        return "\n".join([table, "", *self.notes, self.verdict])

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "reference": self.reference,
            "equal": self.equal,
            "verdict": self.verdict,
            "rows": [row.as_dict() for row in self.rows],
            "notes": self.notes,
        }


def _cell(difference: Difference | None) -> str:
    return "" if difference is None else str(difference)


def _plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in pairs}
