"""Training curves from a run's metrics.jsonl."""

import json
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detkit.visualization.colors import LINE_COLORS

logger = logging.getLogger(__name__)

Series = dict[str, tuple[list[float], list[float]]]
"""name -> iterations and values"""


def read_metrics(path: str | Path) -> Series:
    """Every figure of a ``metrics.jsonl`` over the iterations.

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
    """Draws losses, learning rate and evaluation figures of a run over its iterations.

    Args:
        metrics_file: the run's ``metrics.jsonl``.
        out_png: the picture to write; its folder is made.

    Returns:
        ``out_png``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = read_metrics(metrics_file)
    losses = {n: s for n, s in series.items() if "loss" in n.rsplit("/", 1)[-1]}
    rates = {n: s for n, s in series.items() if n == "lr" or n.startswith("lr/")}
    aps = {n: s for n, s in series.items() if n.rsplit("/", 1)[-1] in ("AP", "AP50", "AP75") and n.count("/") == 1}
    panels = [p for p in (("loss", losses), ("learning rate", rates), ("average precision", aps)) if p[1]]
    figure = Figure(figsize=(6.4 * max(1, len(panels)), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (title, curves) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), i)
        _panel(axes, title, curves)
    if not panels:
        logger.warning("%s: no losses, learning rates or evaluation figures to draw", metrics_file)
        figure.text(0.5, 0.5, "nothing to draw yet", ha="center")
    out = Path(out_png)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    return out


def _panel(axes: Any, title: str, curves: Series) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_prop_cycle(color=LINE_COLORS)
    if title == "average precision":
        _precision_curves(axes, curves)
    for name in sorted(curves, key=lambda n: (n != "total_loss", "/" in n, n)):
        steps, values = curves[name]
        if title == "loss":
            _loss_curve(axes, name, steps, values)
        elif title == "learning rate":
            axes.plot(steps, values, linewidth=1.8, label=name, marker="o" if len(steps) == 1 else None)
    axes.set_title(title)
    axes.set_xlabel("iteration")
    axes.set_ylabel("0 to 1" if title == "average precision" else title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if title != "learning rate" or len(curves) > 1:
        axes.legend(fontsize=8, frameon=False, loc="best")
    if title == "loss":
        limit_spikes(axes, curves)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


def _precision_curves(axes: Any, curves: Series) -> None:
    """A colour a task; AP itself is solid and ends in its figure, AP50 is dashed and AP75 dotted."""
    colors: dict[str, str] = {}
    for name in sorted(curves):
        task, _, figure = name.partition("/")
        color = colors.setdefault(task, LINE_COLORS[len(colors) % len(LINE_COLORS)])
        known = [(s, v) for s, v in zip(*curves[name]) if v >= 0]  # -1: there was nothing to measure
        style = {"AP": "-", "AP50": "--"}.get(figure, ":")
        width = 2.0 if figure == "AP" else 1.3
        xs, ys = [s for s, _ in known], [v for _, v in known]
        axes.plot(xs, ys, style, marker="o", markersize=2 * width, linewidth=width, color=color, label=name)
        if known and figure == "AP":
            side = -11 if task == "mask" else 5  # mask AP is mostly the lower one
            axes.annotate(
                f"{ys[-1]:.3f}", known[-1], textcoords="offset points", xytext=(-8, side), fontsize=9, color=color
            )


def _loss_curve(axes: Any, name: str, steps: list[float], values: list[float]) -> None:
    """A smoothed line over the faint raw one; the total stands out."""
    total = name == "total_loss"
    color = "black" if total else None
    (line,) = axes.plot(steps, smooth(values), linewidth=2.2 if total else 1.4, color=color, label=name)
    if len(values) > 20:
        axes.plot(steps, values, linewidth=0.7, alpha=0.25, color=line.get_color())
    elif len(values) == 1:
        axes.plot(steps, values, "o", markersize=4, color=line.get_color())


def smooth(values: Iterable[float], share: float = 0.05) -> list[float]:
    """A running mean over a ``share`` of the values, without lag; NaNs are left out of it."""
    array = np.asarray(list(values), np.float64)
    half = int(len(array) * share / 2 + 1e-9)
    out = []
    for i in range(len(array)):
        reach = min(half, i, len(array) - 1 - i)  # symmetric, so the ends are not pulled
        window = array[i - reach : i + reach + 1]
        known = window[~np.isnan(window)]
        out.append(float(known.mean()) if known.size else math.nan)
    return out


def limit_spikes(axes: Any, curves: Mapping[str, tuple[list[float], list[float]]]) -> None:
    """Cuts off the first, high losses where they would flatten everything after them."""
    values = np.concatenate([np.asarray(v, np.float64) for _, v in curves.values()])
    values = values[~np.isnan(values)]
    if values.size >= 50 and values.max() > 3 * (high := float(np.percentile(values, 98.5))) > 0:
        axes.set_ylim(top=1.5 * high)
