"""Tables for a person."""

from collections.abc import Sequence
from typing import Any


def side_by_side(header: Sequence[str], rows: Sequence[Sequence[Any]], blocks: int) -> tuple[list[Any], list[str]]:
    """The rows of a table in up to ``blocks`` blocks beside each other, and their header, for ``tabulate``."""
    height = max(1, -(-len(rows) // blocks))
    starts = range(0, max(len(rows), 1), height)
    padded = [*rows, *[[""] * len(header)] * (len(starts) * height - len(rows))]
    return [[cell for s in starts for cell in padded[s + r]] for r in range(height)], [*header] * len(starts)
