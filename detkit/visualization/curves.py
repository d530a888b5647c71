"""Training curves from a run's metrics.jsonl."""

import dataclasses
import json
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkit.visualization.colors import LINE_COLORS

logger = logging.getLogger(__name__)

Series = dict[str, tuple[list[float], list[float]]]
"""name -> iterations and values"""
LOSS, RATE, PRECISION = "loss", "learning rate", "average precision, 0 to 1"
"""What axes say of these metrics."""


@dataclasses.dataclass(frozen=True)
class Line:
    """Values over iterations; ``smooth_share`` as in ``smooth``, 0 for none, ``look`` matplotlib's options."""

    steps: Sequence[float]
    values: Sequence[float]
    smooth_share: float
    look: dict[str, Any]


def read_metrics(path: str | Path) -> Series:
    """Reads every metric of a ``metrics.jsonl`` over the iterations.

    A line is a JSON object with ``iteration`` and numbers. Where a run was resumed, lines of iterations that were
    done again replace the older ones. Values that are not finite are kept as NaN; a last line that was cut off (a run
    that is still writing, or was killed) is left out.

    Raises:
        ValueError: a line in the middle is not JSON.
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    collected: dict[str, dict[float, float]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as e:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: not JSON ({e})") from None
        step = row.get("iteration")
        for name, value in row.items():
            if step is None or name == "iteration" or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            collected.setdefault(name, {})[step] = value if math.isfinite(value) else math.nan
    ordered = {name: sorted(points.items()) for name, points in collected.items()}
    return {name: ([s for s, _ in points], [v for _, v in points]) for name, points in ordered.items()}


def plot_curves(metrics_file: str | Path, out_png: str | Path) -> Path:
    """Draws losses, learning rate and average precision of a run over its iterations.

    Args:
        metrics_file: the run's ``metrics.jsonl``.
        out_png: the picture to write; its folder is made.

    Returns:
        ``out_png``.
    """
    series = read_metrics(metrics_file)
    losses = sorted(
        (n for n in series if "loss" in n.rsplit("/", 1)[-1]), key=lambda n: (n != "total_loss", "/" in n, n)
    )
    rates = [n for n in series if n == "lr" or n.startswith("lr/")]
    precisions = [n for n in series if n.rsplit("/", 1)[-1] in ("AP", "AP50", "AP75") and n.count("/") == 1]
    panels = {LOSS: _loss_lines(series, losses), RATE: _lines(series, rates), PRECISION: _ap_lines(series, precisions)}
    present = {title: lines for title, lines in panels.items() if lines}
    figure = new_figure(6.4 * max(1, len(present)), 4.4)
    for number, (title, lines) in enumerate(present.items(), 1):
        axes = figure.add_subplot(1, len(present), number)
        draw_lines(axes, lines, title)
        axes.set_title(title.partition(",")[0])
        axes.set_ylim(bottom=0)
        if title != RATE or len(lines) > 1:
            axes.legend(fontsize=8, frameon=False, loc="best")
    if not present:
        logger.warning("%s: no losses, learning rates or average precision to draw", metrics_file)
        figure.text(0.5, 0.5, "nothing to draw yet", ha="center")
    return save(figure, out_png)


def new_figure(width: float, height: float) -> Any:
    """An empty figure of matplotlib, in inches, apart from its global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: str | Path) -> Path:
    """Writes a figure; its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def draw_lines(axes: Any, lines: Sequence[Line], label: str) -> None:
    """Draws lines over their iterations, smoothed ones over their faint values; ``label`` is what the axis says."""
    from matplotlib.ticker import MaxNLocator

    axes.set_prop_cycle(color=LINE_COLORS)
    for line in lines:
        values = smooth(line.values, line.smooth_share) if line.smooth_share else list(line.values)
        mark = "o" if len(values) == 1 else line.look.get("marker")
        (drawn,) = axes.plot(line.steps, values, **{**line.look, "marker": mark})
        if line.smooth_share and len(values) > 20:
            axes.plot(line.steps, line.values, linewidth=0.7, alpha=0.25, color=drawn.get_color())
    axes.set_xlabel("iteration")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if label == LOSS and lines:
        _limit_spikes(axes, np.concatenate([np.asarray(line.values, np.float64) for line in lines]))
    axes.set_xlim(left=0)


def smooth(values: Iterable[float], share: float = 0.05) -> list[float]:
    """A running mean over a ``share`` of the values, without lag; NaNs are left out of it."""
    array = np.asarray(list(values), np.float64)
    half = int(len(array) * share / 2 + 1e-9)
    out = []
    for i in range(len(array)):
        reach = min(half, i, len(array) - 1 - i)  # symmetric, so the ends are not pulled
        near = array[i - reach : i + reach + 1]
        known = near[~np.isnan(near)]
        out.append(float(known.mean()) if known.size else math.nan)
    return out


def _lines(series: Series, names: Sequence[str]) -> list[Line]:
    return [Line(*series[name], 0.0, {"linewidth": 1.8, "label": name}) for name in names]


def _loss_lines(series: Series, names: Sequence[str]) -> list[Line]:
    """The total stands out."""
    total, other = {"linewidth": 2.2, "color": "black"}, {"linewidth": 1.4}
    return [Line(*series[n], 0.05, {**(total if n == "total_loss" else other), "label": n}) for n in names]


def _ap_lines(series: Series, names: Sequence[str]) -> list[Line]:
    """A colour a task; AP itself is solid and its label has its last value, AP50 is dashed and AP75 dotted."""
    colors: dict[str, str] = {}
    lines = []
    for name in sorted(names):
        task, _, metric = name.partition("/")
        color = colors.setdefault(task, LINE_COLORS[len(colors) % len(LINE_COLORS)])
        known = [(s, v) for s, v in zip(*series[name]) if v >= 0]  # -1: there was nothing to measure
        style, width = {"AP": "-", "AP50": "--"}.get(metric, ":"), 2.0 if metric == "AP" else 1.3
        label = f"{name}  {known[-1][1]:.3f}" if known and metric == "AP" else name
        look = {"linestyle": style, "linewidth": width, "marker": "o", "markersize": 2 * width, "color": color}
        lines.append(Line([s for s, _ in known], [v for _, v in known], 0.0, {**look, "label": label}))
    return lines


def _limit_spikes(axes: Any, values: np.ndarray) -> None:
    """Cuts off the first, high losses where they would flatten everything after them."""
    values = values[~np.isnan(values)]
    if values.size >= 50 and values.max() > 3 * (high := float(np.percentile(values, 98.5))) > 0:
        axes.set_ylim(top=1.5 * high)
