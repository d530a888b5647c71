"""Several runs in one picture: a panel a metric, a colour a run."""

import difflib
import fnmatch
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detkit.registry import DataError
from detkit.visualization.colors import LINE_COLORS
from detkit.visualization.curves import LOSS, PRECISION, RATE, Line, Series, draw_lines, new_figure, read_metrics, save

STYLES = ("-", "--", "-.", ":")
DEFAULT = ("total_loss", "loss*", "*/AP", "lr")
UNITS = {
    "data_time": "seconds a step",
    "step_time": "seconds a step",
    "eta_seconds": "seconds",
    "max_rss_mb": "MB",
    "max_memory_mb": "MB",
    "lr": RATE,
    "AP": PRECISION,
    "AR": "average recall, 0 to 1",
    "loss": LOSS,
}
"""The end or the beginning of a metric's name -> what its axis says."""


def read_runs(runs: Sequence[str | Path]) -> dict[str, Series]:
    """The metrics of runs, which may still be writing, each under a short name.

    Args:
        runs: folders of runs, or their ``metrics.jsonl``.

    Raises:
        DataError: there is no such file, or it has no metrics yet, or a run is given twice.
    """
    files = [Path(run) / "metrics.jsonl" if Path(run).is_dir() else Path(run) for run in runs]
    series = {}
    for file, name in zip(files, short_names([file.resolve() for file in files])):
        if not file.is_file():
            raise DataError(f"{file}: no such file; expected the folder of a run, or its metrics.jsonl")
        try:
            series[name] = read_metrics(file)
        except ValueError as error:
            raise DataError(str(error)) from error
        if not series[name]:
            raise DataError(f"{file}: no metrics yet; a run writes its first after train.log_period steps")
    return series


def short_names(files: Sequence[Path]) -> list[str]:
    """For each path the fewest of its last folders that tell it from the others.

    Raises:
        DataError: a path is there twice.
    """
    folders = [file.parts[:-1] if file.name == "metrics.jsonl" else file.parts for file in files]
    for number, parts in enumerate(folders):
        if parts in folders[:number]:
            raise DataError(f"{Path(*parts)}: given twice")
    for length in itertools.count(1):
        names = ["/".join(parts[-length:]) for parts in folders]
        if len(set(names)) == len(names):
            break
    return names


def matching_metrics(runs: Mapping[str, Series], patterns: Sequence[str]) -> list[str]:
    """The names of metrics that match the patterns (``*`` is anything), in the patterns' order.

    Raises:
        DataError: a pattern matches no metric of any run; says which there are.
    """
    names = sorted({name for series in runs.values() for name in series}, key=lambda n: (n.count("/"), n))
    found: dict[str, None] = {}
    for pattern in patterns or DEFAULT:
        matched = fnmatch.filter(names, pattern)
        if not matched and patterns:
            near = difflib.get_close_matches(pattern, names, 1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise DataError(f"no run has a metric '{pattern}'.{hint} There are: {', '.join(names)}")
        found.update(dict.fromkeys(matched))
    if not found:
        raise DataError(f"none of {', '.join(DEFAULT)} is there; there are: {', '.join(names)}")
    return list(found)


def plot_runs(
    runs: Mapping[str, Series], names: Sequence[str], out_png: str | Path, *, smooth_share: float = 0.05
) -> Path:
    """Draws metrics of several runs, a panel each, and writes the picture.

    Args:
        runs: short name -> metrics.
        names: of the metrics, e.g. those of ``matching_metrics``.
        out_png: its folder is made.
        smooth_share: lines are running means over this part of a run, over the faint values themselves; 0 for none.
            Learning rates and what an evaluation gave are never smoothed.

    Raises:
        ValueError: ``smooth_share`` is not in [0, 1).
    """
    if not 0 <= smooth_share < 1:
        raise ValueError(f"smooth: expected a part of the run, at least 0 and below 1, got {smooth_share}")
    columns = min(3, len(names)) if len(names) != 4 else 2
    rows = math.ceil(len(names) / columns)
    figure = new_figure(max(5.6 * columns, 7.0), 3.6 * rows + 0.4)
    for number, name in enumerate(names, 1):
        _panel(figure.add_subplot(rows, columns, number), name, runs, smooth_share)
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **_look(number)) for number in range(len(runs))]
    per_row = max(1, int(figure.get_figwidth() * 11 / (max(map(len, runs)) + 6)))
    shown = [f" {run}" if run[:1] == "_" else run for run in runs]  # matplotlib leaves out what begins so
    figure.legend(handles, shown, loc="outside upper center", ncols=min(len(runs), per_row), frameon=False)
    return save(figure, out_png)


def _panel(axes: Any, name: str, runs: Mapping[str, Series], smooth_share: float) -> None:
    exact = axis_label(name) in (RATE, PRECISION, UNITS["AR"])
    lines = []
    for number, series in enumerate(runs.values()):
        steps, values = series.get(name, ([], []))
        if not steps:
            continue
        if exact:
            values = [math.nan if value < 0 else value for value in values]  # -1: nothing to measure
        look = _look(number)
        if name == "lr":  # runs often share it: under the last one the earlier ones are wider, and so stay visible
            look["linewidth"] += 2.0 * min(len(runs) - 1 - number, 3)
        elif len(steps) <= 25:
            look |= {"marker": "o", "markersize": 3.5}
        lines.append(Line(steps, values, 0.0 if exact else smooth_share, look))
    draw_lines(axes, lines, axis_label(name))
    axes.set_title(name, fontsize=11)
    measured = [value for line in lines for value in line.values if not math.isnan(value)]
    if not measured:
        axes.text(0.5, 0.5, "nothing was measured", ha="center", va="center", transform=axes.transAxes)
    if all(value >= 0 for value in measured):
        axes.set_ylim(bottom=0)


def axis_label(name: str) -> str:
    """What a metric is measured in; empty where that is not known."""
    last = name.rsplit("/", 1)[-1]
    for key, unit in UNITS.items():
        if last == key or last.startswith((f"{key}_", key) if key in ("AP", "AR", "loss") else f"{key}/"):
            return unit
    return LOSS if last.endswith("_loss") else ""


def _look(number: int) -> dict[str, Any]:
    """How the lines of a run are drawn."""
    style = STYLES[number // len(LINE_COLORS) % len(STYLES)]
    return {"color": LINE_COLORS[number % len(LINE_COLORS)], "linestyle": style, "linewidth": 1.7}
