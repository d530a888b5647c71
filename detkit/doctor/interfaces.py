"""The doctor's role: Check, and the Finding that it gives.

A check of your own is a class in a file that the config names under ``imports:``.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from detkit.registry import Registry

if TYPE_CHECKING:
    from detkit.doctor.patient import Patient

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""An error ends a run or makes its result worthless; a warning is likely a mistake; a note is worth knowing."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One row of the doctor's table.

    Args:
        severity: how bad it is; see ``SEVERITIES``.
        where: the file, or the path in the config.
        what: what is wrong.
        fix: the way out.
        examples: where it is, each by file, annotation id or name; all of them, the table shows the first.
        count: how many there are; None: as many as examples, at least 1.
        detail: lines that belong below the table, such as a histogram.
        check: the check's name; the doctor fills it in.
    """

    severity: Severity
    where: str
    what: str
    fix: str
    examples: Sequence[str] = ()
    count: int | None = None
    detail: str = ""
    check: str = ""

    @property
    def how_many(self) -> int:
        """The count."""
        return max(1, len(self.examples)) if self.count is None else self.count

    def as_json(self) -> dict[str, Any]:
        """Plain data, with at most 1,000 of the examples."""
        return {**dataclasses.asdict(self), "examples": list(self.examples[:1000]), "count": self.how_many}


class Check:
    """Looks for faults of one kind. All registered checks are made, so one of your own needs no line in the config.

    Attributes:
        needs: attributes of the ``Patient`` that must not be None (``train``, ``test``, ``model``, ``checkpoint``);
            where one is, a finding has said already why, and the check is left out.
        quick: whether it is made at the start of training too: it reads no images and takes no noticeable time.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    quick: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, patient: "Patient") -> Iterable[Finding]:
        """What is wrong with the patient."""
        raise NotImplementedError


CHECKS: Registry[Check] = Registry("check", Check)
