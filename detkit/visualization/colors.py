"""Colours that are easy to distinguish."""

import functools
import itertools
from collections import deque

import numpy as np

_RGB_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_RECENT = 6
"""To so many of the last colours a new one has at least twice the distance that it has to the others."""

LINE_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
"""Okabe and Ito's colours, which the colour-blind can tell apart, without their yellow, which is faint on white."""


def palette(num: int) -> np.ndarray:
    """``(num, 3)`` uint8 RGB colours; colour i is the same whatever ``num`` is.

    Each is, of a grid of strong colours, the one that is farthest from all before it in Oklab (Ottosson 2020,
    https://bottosson.github.io/posts/oklab/), where equal steps look equal. They repeat after some thousands.
    """
    table = _farthest_first(max(64, 1 << (num - 1).bit_length()))
    return table[np.arange(num) % len(table)]


def text_color(background: np.ndarray) -> tuple[int, int, int]:
    """Black or white, whichever is read more easily on ``background`` (RGB)."""
    luma = float(np.asarray(background, np.float64) @ [0.299, 0.587, 0.114])
    return (0, 0, 0) if luma > 130 else (255, 255, 255)


@functools.cache
def _farthest_first(num: int) -> np.ndarray:
    steps = np.linspace(0, 255, 24).round()
    grid = np.array(list(itertools.product(steps, repeat=3)))
    lab = oklab(grid)
    strong = (np.hypot(lab[:, 1], lab[:, 2]) > 0.09) & (lab[:, 0] > 0.5) & (lab[:, 0] < 0.88)
    grid, lab = grid[strong], lab[strong]
    order = [int(np.linalg.norm(lab - oklab(np.array([[0, 114, 178]])), axis=1).argmin())]
    nearest, recent = np.full(len(lab), np.inf), deque[np.ndarray](maxlen=_RECENT)
    while len(order) < min(num, len(lab)):
        recent.append(((lab - lab[order[-1]]) ** 2).sum(1))
        nearest = np.minimum(nearest, recent[-1])
        order.append(int(np.minimum(nearest, np.min(recent, 0) / 4).argmax()))  # squares: a quarter is half as far
    return grid[order].astype(np.uint8)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """``(N, 3)`` sRGB colours, 0 to 255, in Oklab: lightness and two axes of colour."""
    share = np.asarray(rgb, np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T
