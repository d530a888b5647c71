"""What a benchmark found: a table for people, JSON for programs."""

import dataclasses
import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from tabulate import tabulate

import detkit
from benchmarks.timing import Measurement, mebibytes
from detkit.utils.environment import cpu_name
from detkit.utils.paths import atomic_write


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        name: of what was measured.
        milliseconds: the median of a run.
        fastest: the shortest run, in milliseconds.
        processor: the median of the processor's time, of all threads and of child processes together, in milliseconds.
        ratio: to the baseline's time in the same round, the median over the rounds; 1 is the baseline's.
        peak_mib: memory that a run needs beyond what was held before; None: not measured.
        metrics: further metrics by name.
    """

    name: str
    milliseconds: float
    fastest: float
    processor: float
    ratio: float
    peak_mib: float | None = None
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, measured: Measurement, baseline: Measurement, **metrics: Any) -> "Row":
        """The line of a measurement."""
        return cls(
            measured.name,
            1000 * measured.median,
            1000 * min(measured.seconds),
            1000 * statistics.median(measured.processor_seconds),
            measured.ratio_to(baseline),
            mebibytes(measured.peak_memory),
            metrics,
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """A benchmark's result.

    Args:
        title: what was measured, in a line.
        rows: one for each candidate, the baseline first.
        facts: numbers of the whole, by name.
        settings: the options it ran with.
    """

    title: str
    rows: Sequence[Row]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def table(self) -> str:
        """For the console."""
        names = list(dict.fromkeys(name for row in self.rows for name in row.metrics))
        head = ["", "median ms", "fastest ms", "processor ms", "ratio", "peak MiB", *names]
        lines = [
            [
                row.name,
                f"{row.milliseconds:.1f}",
                f"{row.fastest:.1f}",
                f"{row.processor:.1f}",
                f"{row.ratio:.3f}",
                "" if row.peak_mib is None else f"{row.peak_mib:.0f}",
                *(_shown(row.metrics.get(name)) for name in names),
            ]
            for row in self.rows
        ]
        align = ("left", *["right"] * (len(head) - 1))
        parts = [self.title, tabulate(lines, head, disable_numparse=True, colalign=align)]
        parts.append(tabulate([(k, _shown(v)) for k, v in self.facts.items()], tablefmt="plain", disable_numparse=True))
        parts.append(tabulate(list(machine().items()), tablefmt="plain", disable_numparse=True))
        return "\n\n".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """Plain data: title, settings, rows, facts, machine."""
        return {
            "title": self.title,
            "settings": self.settings,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "facts": self.facts,
            "machine": machine(),
        }

    def write(self, path: str | Path) -> None:
        """The JSON into a file."""
        with atomic_write(Path(path), "w") as file:
            json.dump(self.to_json(), file, indent=2)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def machine() -> dict[str, str]:
    """What it was measured on: processor, GPU, threads, versions, load."""
    found = {"cpu": f"{cpu_name()}, {os.cpu_count()} logical cores", "threads": str(torch.get_num_threads())}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    found["versions"] = (
        f"detkit {detkit.__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"python {platform.python_version()}"
    )
    if hasattr(os, "getloadavg"):
        found["load"] = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return found
