"""Tables for a person."""

import math
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate


def side_by_side(header: Sequence[str], rows: Sequence[Sequence[Any]], blocks: int) -> tuple[list[Any], list[str]]:
    """The rows of a table in up to ``blocks`` blocks beside each other, and their header, for ``tabulate``."""
    height = max(1, -(-len(rows) // blocks))
    starts = range(0, max(len(rows), 1), height)
    padded = [*rows, *[[""] * len(header)] * (len(starts) * height - len(rows))]
    return [[cell for s in starts for cell in padded[s + r]] for r in range(height)], [*header] * len(starts)


def metric_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows of a name and its metrics, of which -1 is none; many stand in up to three blocks side by side."""
    cells = [[metric(value) if isinstance(value, float) else value for value in row] for row in rows]
    wide, headers = side_by_side(header, cells, max(1, min(3, -(-len(rows) // 20))))
    align = ["left" if word == header[0] else "right" for word in headers]
    return tabulate(wide, headers, tablefmt="simple", colalign=align, disable_numparse=True)


def metric(value: float) -> str:
    """A metric in three digits; "-" where there was nothing to measure."""
    return "-" if value == -1 or math.isnan(value) else f"{value:.3f}"
