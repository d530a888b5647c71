"""What an option takes beyond its type, as part of its annotation: ``score_thresh: Fraction``."""

import dataclasses
import math
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Interval:
    """The numbers that an option takes, as in ``Annotated[float, Interval(0, 1)]``; never NaN or infinity.

    Args:
        low: the smallest.
        high: the largest.
        above: whether ``low`` itself is too small.
        below: whether ``high`` itself is too large.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: Any) -> bool:
        return (
            (self.low < value if self.above else self.low <= value)
            and (value < self.high if self.below else value <= self.high)
            and abs(value) < math.inf
        )

    def __str__(self) -> str:
        if not (self.above or self.below or math.inf in (-self.low, self.high)):
            return f"{self.low:g}..{self.high:g}"
        low = "" if self.low == -math.inf else f"{'>' if self.above else '>='} {self.low:g}"
        high = "" if self.high == math.inf else f"{'<' if self.below else '<='} {self.high:g}"
        return " and ".join(filter(None, (low, high))) or "finite"

    def check(self, value: Any) -> Any:
        """``value`` as the option gets it. Raises ValueError, with a hint or none, for one that it does not take."""
        if value not in self:
            percent = self.high == 1 and not self.below and 2 <= value <= 100
            finite = "" if abs(value) < math.inf else "it must be finite"
            raise ValueError(f"{value:g} percent is {value / 100:g}" if percent else finite)
        return value


@dataclasses.dataclass(frozen=True)
class Length:
    """How many items a list has, as in ``Annotated[tuple[float, ...], Length(1)]``.

    Args:
        least: so many at least.
    """

    least: int

    def __str__(self) -> str:
        return f"{self.least} or more"

    def check(self, value: Any) -> Any:
        """As ``Interval.check``."""
        if len(value) < self.least:
            raise ValueError("")
        return value


Fraction = Annotated[float, Interval(0, 1)]
Share = Annotated[float, Interval(0, 1, above=True)]
Positive = Annotated[float, Interval(0, above=True)]
NonNegative = Annotated[float, Interval(0)]
Count = Annotated[int, Interval(1)]
CountOrZero = Annotated[int, Interval(0)]
Finite = Annotated[float, Interval()]
Gray = Annotated[int, Interval(0, 255)]
