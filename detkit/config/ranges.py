"""Ranges of numbers, as part of an option's annotation: ``score_thresh: Fraction``."""

import dataclasses
import math
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Interval:
    """The numbers that an option takes, as in ``Annotated[float, Interval(0, 1)]``; never NaN.

    Args:
        low: the smallest.
        high: the largest.
        above: whether ``low`` itself is too small.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: Any) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        if self.high == math.inf or self.above:
            top = "" if self.high == math.inf else f" and <= {self.high:g}"
            return f"{'>' if self.above else '>='} {self.low:g}{top}"
        return f"{self.low:g}..{self.high:g}"

    def hint(self, value: Any) -> str:
        """What may have been meant by a number outside; empty where that is unknown."""
        return f"; {value:g} percent is {value / 100:g}" if self.high == 1 and 1 < value <= 100 else ""


Fraction = Annotated[float, Interval(0, 1)]
Share = Annotated[float, Interval(0, 1, above=True)]
Positive = Annotated[float, Interval(0, above=True)]
NonNegative = Annotated[float, Interval(0)]
Count = Annotated[int, Interval(1)]
CountOrZero = Annotated[int, Interval(0)]
