"""The doctor's report: a table for the eye, JSON for programs."""

import json
import os
from collections import Counter
from collections.abc import Sequence

from tabulate import tabulate

from detkit.doctor.interfaces import SEVERITIES, Finding
from detkit.utils import atomic_write

SHOWN = 3
"""Examples a row."""


def findings_table(findings: Sequence[Finding]) -> str:
    """A row a finding, then what belongs below the table, then a line that counts."""
    rows = [[f.severity, f.where, f.what, f.how_many, _examples(f), f.fix] for f in findings]
    headers = ["severity", "where", "what", "how many", "examples", "fix"]
    widths = [None, 26, 36, None, 40, 32]
    parts = [tabulate(rows, headers, tablefmt="grid", maxcolwidths=widths)] if rows else []  # type: ignore[arg-type]
    parts += [f"{f.where}: {f.what}\n{f.detail}" for f in findings if f.detail]
    counts = Counter(f.severity for f in findings)
    said = ", ".join(f"{counts[s]} {s}{'s' if counts[s] != 1 else ''}" for s in SEVERITIES if counts[s])
    return "\n\n".join([*parts, said or "nothing is wrong that the doctor knows of"])


def write_findings(findings: Sequence[Finding], path: str | os.PathLike[str]) -> None:
    """Writes a JSON list with an object a finding."""
    with atomic_write(path, "w") as file:
        json.dump([finding.as_json() for finding in findings], file, indent=1)
        file.write("\n")


def _examples(finding: Finding) -> str:
    more = finding.how_many - SHOWN
    return "\n".join([*finding.examples[:SHOWN], *([f"and {more} more"] if finding.examples and more > 0 else [])])
