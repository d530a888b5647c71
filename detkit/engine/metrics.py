"""Metrics of a run: collected without a synchronisation of the device, averaged over some steps, given as lines."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkit.utils import distributed
from detkit.utils.memory import peak_memory

Line = dict[str, Any]
"""``{"iteration": ..., name: number, ...}``. ``iteration`` is the number (0-based) of the last finished step."""

Pictures = Mapping[str, np.ndarray]
"""name -> ``(H, W, 3)`` uint8, RGB"""

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
        """Takes in what was added; gives the pace. On a GPU it is right only after the device was synchronised."""
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


@dataclasses.dataclass
class _Step:
    """One step's metrics, first as tensors on the device and later as floats."""

    number: int
    tensors: dict[str, Tensor]
    values: dict[str, float] = dataclasses.field(default_factory=dict)


class Metrics:
    """Gathers metrics step by step; every ``log_period`` steps they become a line.

    The metrics of a window stay on the device until it is full, and are then copied to the CPU in one transfer. A
    metric's value in the line is its mean over the window's steps that gave it, and over all ranks.

    Args:
        log_period: steps a window.

    Raises:
        ValueError: ``log_period`` is below 1.
    """

    def __init__(self, log_period: int):
        if log_period < 1:
            raise ValueError(f"log_period: expected at least 1 step, got {log_period}")
        self.log_period = log_period
        self._window: list[_Step] = []
        self._data_time = self._step_time = 0.0
        self._pace = Pace()

    @property
    def is_empty(self) -> bool:
        """Whether no step has come since the last line."""
        return not self._window

    def add(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Takes the 0-d tensors of one step, ``total_loss`` among them."""
        self._window.append(_Step(step, {name: value.detach() for name, value in tensors.items()}))

    def add_times(self, data_time: float, step_time: float) -> None:
        """Takes how long the step took, in seconds, and how much of it was waiting for data."""
        self._data_time += data_time
        self._step_time += step_time
        self._pace.add(step_time)

    def settle(self) -> tuple[int, Mapping[str, float]] | None:
        """Copies what is still on the device to the CPU.

        Returns:
            Number and values of the first of these steps whose total loss was not finite; None where all were.
        """
        waiting = [step for step in self._window if step.tensors]
        flat = [value for step in waiting for value in step.tensors.values()]
        if not flat:
            return None
        device = flat[0].device
        numbers = iter(torch.stack([v.to(device, torch.float32).reshape(()) for v in flat]).tolist())
        for step in waiting:
            step.values = {name: next(numbers) for name in step.tensors}
            step.tensors = {}
        bad = (step for step in waiting if not math.isfinite(step.values["total_loss"]))
        return next(((step.number, step.values) for step in bad), None)

    def flush(self, lr: float, steps_left: int, device: torch.device, hooks_left: float = 0.0) -> Line:
        """Ends the window, after it has settled, and begins the next one.

        All ranks must call it at the same step.

        Args:
            lr: the learning rate of the last step.
            steps_left: how many steps follow.
            device: whose memory is reported, beside the processes' own.
            hooks_left: seconds that hooks will take until the end, for the time left.

        Returns:
            The window's line, the same on all ranks, which hooks may decide by: times and memory are the largest ones.
        """
        window, self._window = self._window, []
        count = max(len(window), 1)
        values: dict[str, list[float]] = {}
        for step in window:
            for name, value in step.values.items():
                values.setdefault(name, []).extend([] if math.isnan(value) else [value])
        means = mean_over_ranks({name: (sum(numbers), len(numbers)) for name, numbers in values.items()})
        times = {"data_time": self._data_time / count, "step_time": self._step_time / count}
        times["eta_seconds"] = round(self._pace.settle() * steps_left + hooks_left, 1)
        ranks = distributed.all_gather_object({**times, **peak_memory(device)})
        line: Line = {"iteration": window[-1].number, **means} if window else {}
        line["lr"] = lr
        line.update({name: max(taken[name] for taken in ranks) for name in ranks[0]})
        self._data_time = self._step_time = 0.0
        return line

    def state_dict(self) -> dict[str, Any]:
        """The window that is not full yet, settled before, of every rank, and the pace. All ranks must call it."""
        window = [[step.number, dict(step.values)] for step in self._window]
        mine = {"window": window, "data_time": self._data_time, "step_time": self._step_time}
        return {"ranks": distributed.all_gather_object(mine), "pace": self._pace.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what ``state_dict`` gave; with another number of processes the window's metrics are lost."""
        self._pace.load_state_dict(state["pace"])
        if len(state["ranks"]) != distributed.world_size():
            return
        mine = state["ranks"][distributed.rank()]
        self._window = [_Step(number, {}, dict(values)) for number, values, *_ in mine["window"]]
        self._data_time, self._step_time = mine["data_time"], mine["step_time"]


def mean_over_ranks(sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Means by name, from the sum and the number of values that each process has; NaN of none. All must call it."""
    ranks, means = distributed.all_gather_object(dict(sums)), dict[str, float]()
    for name in dict.fromkeys(name for part in ranks for name in part):
        total, number = (sum(values) for values in zip(*(part[name] for part in ranks if name in part)))
        means[name] = total / number if number else math.nan
    return means


def flatten(results: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in nested results under ``a/b`` names; what is listed per class is left out.

    What could not be measured is NaN: a metric that is None, or that is -1 for a reason under ``reasons``.
    """
    flat: dict[str, float] = {}
    reasons = results.get("reasons") or {}
    for name, value in results.items():
        if name in ("per_class", "class_metrics", "reasons"):
            continue
        if getattr(value, "ndim", 1) == 0:  # a number of numpy or torch
            value = value.item()
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}/"))
        elif value is None:
            flat[f"{prefix}{name}"] = math.nan
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{name}"] = math.nan if value == -1 and name in reasons else value
    return flat
