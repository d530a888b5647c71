"""How long a step takes, for the time that is left."""

from typing import Any

_HORIZON = 200


class Pace:
    """Seconds a step: the mean over all steps at first, and a running one over about 200 later.

    A process's first step is left out where others follow it: it starts the loader and warms caches, which the steps
    that are left will not do. A resumed run goes on with the pace it had, so its time left does not jump.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._steps = 0  # that went into the mean
        self._first: float | None = None
        self._window: list[float] = []

    def add(self, seconds: float) -> None:
        """Takes one step's time."""
        if self._first is None:
            self._first = seconds
        else:
            self._window.append(seconds)

    def settle(self) -> float:
        """Takes in what was added; gives the pace. On a GPU it is right only where the device was waited for."""
        window, self._window = self._window, []
        if window:
            mean, self._steps = sum(window) / len(window), self._steps + len(window)
            weight = min(1.0, len(window) / min(self._steps, _HORIZON))
            self.seconds = mean if self.seconds is None else self.seconds + weight * (mean - self.seconds)
        if self.seconds is not None:
            return self.seconds
        return self._first or 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {"seconds": self.seconds, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what ``state_dict`` gave."""
        self.seconds, self._steps = state["seconds"], state["steps"]
