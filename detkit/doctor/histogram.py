"""Objects against anchors: how many of each size and shape there are, and how many are out of reach."""

import os
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from detkit.doctor.grid import Level
from detkit.utils import atomic_write
from detkit.visualization.curves import new_figure

WIDTH = 30
"""Characters of the longest bar."""


def histogram_text(boxes: np.ndarray, reach: np.ndarray, levels: Sequence[Level], thresh: float) -> str:
    """Two tables: sizes in octaves, and shapes in steps of a factor of 2.

    Args:
        boxes: ``(N, 4)`` xyxy in pixels of the input.
        reach: ``(N,)`` IoU of each with its best anchor.
        levels: the anchors.
        thresh: the IoU below which an object is out of reach.
    """
    (sizes, ratios), (anchor_sizes, anchor_ratios) = _measures(boxes), _anchor_measures(levels)
    tables = []
    for title, values, own in (
        ("size (root of the area, pixels)", sizes, anchor_sizes),
        ("height / width", ratios, anchor_ratios),
    ):
        bins = np.floor(np.log2(np.maximum(values, 1e-6)) + 0.5 * (own is anchor_ratios)).astype(int)
        most = np.bincount(bins - bins.min()).max()
        rows = []
        for number in range(bins.min(), bins.max() + 1):
            inside = bins == number
            low, high = 2.0 ** (number - 0.5 * (own is anchor_ratios) + np.arange(2))
            missed = int((reach[inside] < thresh).sum())
            bar = "#" * int(np.ceil(WIDTH * inside.sum() / most))
            anchors = ", ".join(f"{value:.3g}" for value in own if low <= value < high)
            rows.append([f"{low:.3g} to {high:.3g}", int(inside.sum()), missed, anchors, bar])
        tables.append(tabulate(rows, [title, "objects", f"best IoU < {thresh:g}", "anchors", ""], tablefmt="simple"))
    return "\n\n".join(tables)


def histogram_image(
    boxes: np.ndarray, reach: np.ndarray, levels: Sequence[Level], thresh: float, path: str | os.PathLike[str]
) -> None:
    """The same as a PNG; anchors are dashed lines."""
    (sizes, ratios), (anchor_sizes, anchor_ratios) = _measures(boxes), _anchor_measures(levels)
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    lost = reach < thresh
    for axes, values, own, title in (
        (left, sizes, anchor_sizes, "size: root of the area, pixels of the input"),
        (right, ratios, anchor_ratios, "height / width"),
    ):
        edges = np.geomspace(values.min() * 0.99, values.max() * 1.01, 40)
        axes.hist([values[~lost], values[lost]], edges, stacked=True, label=["reached", f"best IoU < {thresh:g}"])
        for number, value in enumerate(own):
            axes.axvline(value, color="black", linestyle="--", linewidth=0.8, label=None if number else "anchors")
        axes.set(xscale="log", xlabel=title, ylabel="objects")
        axes.legend()
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def _measures(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.sqrt(sides.prod(1)), sides[:, 1] / sides[:, 0]


def _anchor_measures(levels: Sequence[Level]) -> tuple[list[float], list[float]]:
    """The different sizes and ratios of the anchors, to three digits."""
    sizes, ratios = _measures(np.concatenate([level.cells for level in levels]))
    return sorted({float(f"{v:.3g}") for v in sizes}), sorted({float(f"{v:.3g}") for v in ratios})
