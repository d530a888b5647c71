"""Watching one figure of a run: its best value so far, and whether there is such a figure at all."""

import logging
import math
from typing import Any, Literal

from detkit.engine.metrics import Line
from detkit.registry import ConfigError

logger = logging.getLogger(__name__)

Mode = Literal["max", "min"]


class WatchedMetric:
    """The best value of one figure in the lines of metrics.

    Args:
        owner: who watches, for messages.
        name: of the figure, as it stands in the lines: ``mask/AP``, ``ema/mask/AP``, ``validation/total_loss``.
        mode: whether more or less of it is better.
        min_delta: by how much a value must beat the best one.

    Raises:
        ValueError: ``min_delta`` is negative.
    """

    def __init__(self, owner: str, name: str, mode: Mode, min_delta: float = 0.0):
        if not min_delta >= 0:
            raise ValueError(f"{owner}: expected min_delta of at least 0, got {min_delta}")
        self.owner, self.name, self.mode, self.min_delta = owner, name, mode, min_delta
        self.best: float | None = None
        self.step: int | None = None
        self._names: set[str] = set()
        self._warned = False

    def better(self, line: Line) -> bool | None:
        """Takes a line. True: its value is the best so far; False: it is not; None: the line has no such value.

        A value that is not a number is no better than any.

        Raises:
            ConfigError: the line has the metric's sisters (``mask/AP50`` for ``mask/APP``) and not the metric.
        """
        self._names |= line.keys() - {"iteration"}
        if self.name not in line:
            family = self.name.rpartition("/")[0]
            if family and any(name.rpartition("/")[0] == family for name in line):
                raise self._missing()
            return None
        value = float(line[self.name])
        gain = -math.inf if self.best is None else value - self.best if self.mode == "max" else self.best - value
        if math.isnan(value) or (self.best is not None and not gain > self.min_delta):
            return False
        self.best, self.step = value, int(line["iteration"])
        return True

    def check(self, *, evaluated: bool, ended: bool) -> None:
        """Warns once when there has been an evaluation without the metric; raises ConfigError at the end."""
        if self.name in self._names or not self._names:
            return
        if ended:
            raise self._missing()
        if evaluated and not self._warned:
            logger.warning("%s; waiting for it, as another hook may give it", self._missing())
            self._warned = True

    def state_dict(self) -> dict[str, Any]:
        """Best value and step, and of which figure."""
        return {"name": self.name, "mode": self.mode, "best": self.best, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Takes what ``state_dict`` gave; not, and gives False, where it is of another metric or mode."""
        if (state["name"], state["mode"]) != (self.name, self.mode):
            logger.warning(
                "%s: watched %s (%s) before and watches %s (%s) now: begins anew",
                *(self.owner, state["name"], state["mode"], self.name, self.mode),
            )
            return False
        self.best, self.step = state["best"], state["step"]
        return True

    def _missing(self) -> ConfigError:
        known = ", ".join(sorted(self._names))
        return ConfigError(f"train.hooks: {self.owner}: no line of metrics has '{self.name}'; there are {known}")
