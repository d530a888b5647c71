"""Charts as SVG that stands inside a page: its texts are texts, and what is black takes the colour of the page's."""

import dataclasses
import html
import io
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from detkit.report.analysis import THRESHOLDS, Scores
from detkit.visualization.colors import LINE_COLORS
from detkit.visualization.curves import LOSS, RATE, Line, Series, curve_panels, draw_lines, new_figure, plain_texts
from detkit.visualization.fonts import load_matplotlib

WIDTH, HEIGHT = 5.6, 3.6
"""Inches; the page scales them."""
MOST_POINTS = 500


def threshold_chart(scores: Scores, best: float) -> str:
    """Precision, recall and F1 over the score threshold, with a line at the best one."""
    figure = new_figure(WIDTH, HEIGHT)
    axes = _axes(figure, "score threshold", "0 to 1")
    for name, values, style, color in zip(
        ("precision", "recall", "F1"), (scores.precision, scores.recall, scores.f1), ("--", ":", "-"), LINE_COLORS
    ):
        axes.plot(THRESHOLDS, values, style, label=name, color=color, linewidth=2.4 if style == "-" else 1.8)
    axes.axvline(best, color="black", linewidth=1, alpha=0.6)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize=9, frameon=False)
    return to_svg(figure, f"Precision, recall and F1 over the score threshold; F1 is best at {best:.2f}")


def curve_charts(series: Series) -> list[str]:
    """A run's losses, learning rate and average precision, a chart each."""
    charts = []
    for title, lines in curve_panels(series).items():
        figure = new_figure(WIDTH, HEIGHT)
        axes = figure.add_subplot()
        draw_lines(axes, [_thinned(line) for line in lines], title)
        axes.set_ylim(bottom=0)
        if title != RATE or len(lines) > 1:
            axes.legend(fontsize=8, frameon=False, loc="upper right" if title == LOSS else "best")
        charts.append(to_svg(figure, f"{title.partition(',')[0]} over the iterations"))
    return charts


def size_chart(sizes: Mapping[str, np.ndarray]) -> str:
    """How large the objects of each dataset are: shares by the root of their boxes' areas, in pixels."""
    known = {name: values[values > 0] for name, values in sizes.items()}
    known = {name: values for name, values in known.items() if len(values)}
    if not known:
        return ""
    figure, all_sizes = new_figure(WIDTH, HEIGHT), np.concatenate(list(known.values()))
    axes = _axes(figure, "size of an object: root of its box's area, pixels", "share of the objects, %")
    edges = np.geomspace(all_sizes.min() / 1.05, all_sizes.max() * 1.05, 25)
    for (name, values), color, style in zip(known.items(), LINE_COLORS, ("-", "--")):
        shares = 100 * np.histogram(values, edges)[0] / len(values)
        axes.stairs(shares, edges, label=name, color=color, linewidth=2, linestyle=style)
    axes.set_xscale("log")
    steps = [2.0**power for power in range(-4, 20)]
    few = edges[-1] < 16 * edges[0]
    ticks = [
        tick for step in steps for tick in ((step, 1.5 * step) if few else (step,)) if edges[0] <= tick <= edges[-1]
    ]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=9, frameon=False)
    return to_svg(figure, f"Sizes of the objects of {' and '.join(known)}")


def to_svg(figure: Any, words: str) -> str:
    """A figure as an ``svg`` element that loads nothing; ``words`` say what it shows to those who do not see it."""
    plain_texts(figure)
    file, options = io.StringIO(), {"svg.fonttype": "none", "svg.hashsalt": words, "font.family": ["sans-serif"]}
    with load_matplotlib().rc_context(options), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that the font lacks: the browser has others
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator")))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)  # of groups: nothing refers to them, and charts share them
    box = re.search(r'viewBox="[^"]*"', text)
    body = text[text.index(">") + 1 :].replace("#000000", "currentColor")
    label = html.escape(words)
    return f'<svg {box[0] if box else ""} role="img" aria-label="{label}"><title>{label}</title>{body}'


def _axes(figure: Any, across: str, up: str) -> Any:
    axes = figure.add_subplot()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _thinned(line: Line) -> Line:
    """The line with at most ``MOST_POINTS`` points, each the mean of its neighbours."""
    if len(line.steps) <= MOST_POINTS:
        return line
    blocks = np.array_split(np.array([line.steps, line.values], np.float64), MOST_POINTS, 1)
    known = [block[:, ~np.isnan(block[1])] for block in blocks]
    means = np.array([block.mean(1) for block in known if block.size]).reshape(-1, 2)
    return dataclasses.replace(line, steps=means[:, 0].tolist(), values=means[:, 1].tolist())
