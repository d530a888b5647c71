"""Training curves from a run's metrics.jsonl."""

import dataclasses
import json
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkit.registry import DataError
from detkit.utils.paths import naming_file
from detkit.visualization.colors import LINE_COLORS
from detkit.visualization.fonts import font_runs, load_matplotlib, writable

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
    done again replace the older ones. Values that are null or not finite are kept as NaN; a last line that was cut off
    (a run that is still writing, or was killed) is left out.

    Raises:
        ValueError: a line in the middle is no JSON object, or its ``iteration`` is no number.
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    lines = [*lines[:-1], *filter(str.strip, lines[-1:])]
    collected: dict[str, dict[float, float]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_int=float)
            step = row.pop("iteration", math.nan) - 0.0
        except (ValueError, TypeError, AttributeError, RecursionError):
            if number == len(lines):
                break
            fix = "expected a JSON object with a number under 'iteration'; remove the line"
            raise ValueError(f"{path}, line {number} is {line[:40]!r}: {fix}") from None
        for name, value in row.items() if math.isfinite(step) else ():
            number_or_nan = math.nan if value is None else value
            if isinstance(number_or_nan, float):
                collected.setdefault(name, {})[step] = number_or_nan if math.isfinite(number_or_nan) else math.nan
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
    present = curve_panels(read_metrics(metrics_file))
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


def curve_panels(series: Series) -> dict[str, list[Line]]:
    """Losses, learning rate and average precision, each with its lines; what a run does not have is left out."""
    last = {name: name.rsplit("/", 1)[-1] for name in series}
    panels = {
        LOSS: sorted((n for n in series if "loss" in last[n]), key=lambda n: (n != "total_loss", "/" in n, n)),
        RATE: [n for n in series if n == "lr" or n.startswith("lr/")],
        PRECISION: sorted(n for n in series if last[n] in ("AP", "AP50", "AP75") and n.count("/") == 1),
    }
    return {title: [_line(n, *series[n], title) for n in names] for title, names in panels.items() if names}


def new_figure(width: float, height: float) -> Any:
    """An empty figure of matplotlib, in inches, apart from its global state."""
    load_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain_texts(figure: Any) -> list[Any]:
    """The figure's texts, written as they are from now on: names of metrics and folders may have dollars in them."""
    from matplotlib.text import Text

    texts = list(figure.findobj(Text))
    for text in texts:
        text.set_parse_math(False)
    return texts


def save(figure: Any, path: str | Path) -> Path:
    """Writes a figure, its texts as they are and in fonts that have their characters; its folder is made.

    Raises DataError where the file's name does not say which kind of picture it is.
    """
    from matplotlib.font_manager import fontManager, get_font

    path, kinds = Path(path), figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise DataError(f"{path}: its suffix says the kind of picture: {', '.join(f'.{kind}' for kind in kinds)}")
    for text in plain_texts(figure):
        text.set_text(writable(text.get_text()))
        files = [file for file, _ in font_runs(text.get_text()) if file is not None]
        for file in {*files} - {font.fname for font in fontManager.ttflist}:
            fontManager.addfont(file)
        text.set_fontfamily(["DejaVu Sans", *(get_font(file).family_name for file in files)])
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_file(path):
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


def _line(name: str, steps: Sequence[float], values: Sequence[float], title: str) -> Line:
    """The line of a metric: the total loss and AP stand out, and AP's label has its last value."""
    kind = name.rsplit("/", 1)[-1]
    look: dict[str, Any] = {"label": name, "linewidth": 2.2 if kind in ("total_loss", "AP") else 1.4}
    look |= {"color": "black"} if name == "total_loss" else {}
    if title == PRECISION:
        values = [math.nan if value < 0 else value for value in values]  # -1: there was nothing to measure
        look |= {"linestyle": {"AP50": "--", "AP75": ":"}.get(kind, "-"), "marker": "o", "markersize": 3}
        look["label"] += f"  {values[-1]:.3f}" if kind == "AP" and not math.isnan(values[-1]) else ""
    return Line(steps, values, 0.05 if title == LOSS else 0.0, look)


def _limit_spikes(axes: Any, values: np.ndarray) -> None:
    """Cuts off the first, high losses where they would flatten everything after them."""
    values = values[~np.isnan(values)]
    if values.size >= 50 and values.max() > 3 * (high := float(np.percentile(values, 98.5))) > 0:
        axes.set_ylim(top=1.5 * high)
