"""Interleaved timing: each round runs every candidate once, so that a change of the machine's load meets all of them.

Peak memory is measured after the timing, in runs of their own.
"""

import ctypes
import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Something that is timed.

    Args:
        name: what the table calls it.
        run: does the work once.
        prepare: is called before each run, outside the measured time; None for nothing.
        flops: floating-point operations of a run, for candidates that measure the machine; None: unknown.
        memory: whether its peak memory is of interest.
    """

    name: str
    run: Callable[[], Any]
    prepare: Callable[[], Any] | None = None
    flops: float | None = None
    memory: bool = True


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The runs of one candidate.

    Args:
        name: the candidate's.
        seconds: of each run, in order.
        processor_seconds: of each run, the time of all threads together, of the process and of those that it started
            and waited for (on Windows without these), which other work on the machine touches less.
        peak_memory: bytes that a run needed beyond what was held before it; None: not measured.
        flops: see ``Candidate``.
    """

    name: str
    seconds: tuple[float, ...]
    processor_seconds: tuple[float, ...]
    peak_memory: int | None = None
    flops: float | None = None

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float | None:
        """Floating-point operations a second, by the median."""
        return None if self.flops is None else self.flops / self.median

    def ratio_to(self, other: "Measurement") -> float:
        """The median over the rounds of this one's time over the other's in the same round."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True))


def measure(
    candidates: Sequence[Candidate], *, rounds: int, warmup: int = 1, device: torch.device | str = "cpu"
) -> list[Measurement]:
    """Times the candidates in turn.

    Every second round goes through them backwards, so that none always follows the same other.

    Args:
        candidates: with names of their own.
        rounds: measured runs of each.
        warmup: runs of each before that.
        device: where the work is done; it is synchronised before each clock reading.

    Raises:
        ValueError: no round, or two candidates of one name.
    """
    names = [c.name for c in candidates]
    if rounds < 1 or len(set(names)) < len(names):
        raise ValueError(f"measure: expected at least 1 round and different names, got {rounds} and {names}")
    device = torch.device(device)
    for candidate in candidates:
        for _ in range(warmup):
            _timed(candidate, device)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for candidate in candidates if number % 2 == 0 else reversed(candidates):
            times[candidate.name].append(_timed(candidate, device))
    return [_measurement(c, times[c.name], device) for c in candidates]


def _measurement(candidate: Candidate, times: Sequence[tuple[float, float]], device: torch.device) -> Measurement:
    peak = peak_memory(candidate, device) if candidate.memory else None
    seconds, processor = tuple(t for t, _ in times), tuple(p for _, p in times)
    return Measurement(candidate.name, seconds, processor, peak, candidate.flops)


def _timed(candidate: Candidate, device: torch.device) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    if candidate.prepare is not None:
        candidate.prepare()
    _synchronise(device)
    start, processor = time.perf_counter(), _processor_time()
    candidate.run()
    _synchronise(device)
    return time.perf_counter() - start, _processor_time() - processor


def _processor_time() -> float:
    """Seconds of this process and of the processes that it started and that have ended."""
    if resource is None:
        return time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(candidate: Candidate, device: torch.device) -> int | None:
    """Bytes that one run needs at its height beyond what was held before it.

    On a GPU what torch's allocator gave out; on the CPU the process' resident memory, by Linux' own record of its
    height. None where there is no such record.
    """
    if candidate.prepare is not None:
        candidate.prepare()
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        candidate.run()
        _synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before is no part of this run's need
        Path("/proc/self/clear_refs").write_text("5")  # the record starts again
    except (OSError, AttributeError):
        return None
    before = _resident("VmRSS")
    candidate.run()
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def mebibytes(count: int | None) -> float | None:
    """Bytes as MiB."""
    return None if count is None else count / _MIB
