"""Shapes of labelling tools as polygons, and their run lengths as masks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask

from detkit.data.datasets.rows import FAR
from detkit.data.image_files import max_pixels
from detkit.registry import DataError
from detkit.structures.rle import as_rle
from detkit.utils.words import amount

CORNERS = 72
"""Of the polygon that stands for an ellipse."""


def numbers(values: Any, origin: str, what: str, count: int | None = None) -> np.ndarray:
    """Finite numbers of a file, of any shape; or ``(count,)``. Raises DataError where they are none, or not so many."""
    try:
        out = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        out = np.full(1, np.nan)
    if not np.isfinite(out).all() or (count is not None and out.size != count):
        expected = "numbers" if count is None else amount(count, "number")
        raise DataError(f"{origin}: {what} is {str(values)[:60]}; expected {expected}")
    return out if count is None else out.reshape(count)


def numbers_of(entry: Any, keys: Sequence[str], origin: str) -> list[float]:
    """The finite numbers under some keys of a mapping or an XML element. Raises DataError where one is none."""
    return numbers([entry.get(key) for key in keys], origin, ", ".join(keys), len(keys)).tolist()


def rotation_of(value: Any, origin: str) -> float:
    """A rotation in the unit of the file, 0 where none is given. Raises DataError where it is no number."""
    return float(numbers([value or 0], origin, "the rotation", 1)[0])


def points(values: Any, origin: str, least: int = 3) -> list[float]:
    """x, y, x, y, ... of points ``[[x, y], ...]``. Raises DataError for what is none, or too few."""
    out = numbers(values, origin, "the outline")
    if out.ndim != 2 or out.shape[1] != 2 or len(out) < least:
        raise DataError(f"{origin}: the outline is {str(values)[:60]}; expected at least {least} points of x and y")
    return out.reshape(-1).tolist()


def is_line(values: Any) -> bool:
    """Whether an outline has too few points to cover anything, as tools let a slip of the hand leave it."""
    return isinstance(values, list | tuple) and len(values) < 3


def ellipse(centre: Sequence[float], radii: Sequence[float], degrees: float = 0) -> tuple[list[float], list[float]]:
    """The box around an ellipse that is turned clockwise about its centre, and a polygon of its area."""
    angle = np.arange(CORNERS) * (2 * math.pi / CORNERS)
    stretch = math.sqrt(2 * math.pi / CORNERS / math.sin(2 * math.pi / CORNERS))
    x, y = radii[0] * stretch * np.cos(angle), radii[1] * stretch * np.sin(angle)
    polygon = turned(np.stack([x, y], 1), degrees) + np.asarray(centre)
    axes = turned(np.diag(np.asarray(radii, np.float64)), degrees)
    half = np.sqrt((axes**2).sum(0))
    return [*(centre - half).tolist(), *(centre + half).tolist()], polygon.reshape(-1).tolist()


def rectangle(box: Sequence[float]) -> np.ndarray:
    """``(4, 2)`` corners of x1, y1, x2, y2."""
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)


def turned(corners: np.ndarray, degrees: float, about: Sequence[float] = (0.0, 0.0)) -> np.ndarray:
    """Points turned clockwise (y points down)."""
    angle, centre = math.radians(degrees), np.asarray(about, np.float64)
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return (corners - centre) @ matrix.T + centre


def extent(corners: Any) -> list[float]:
    """x1, y1, x2, y2 around points ``(N, 2)``, or x, y, x, y, ..."""
    corners = np.reshape(corners, (-1, 2))
    return [*corners.min(0).tolist(), *corners.max(0).tolist()]


def drawn(pixels: np.ndarray) -> np.ndarray:
    """``(H, W)`` bool: where the image of a mask is not transparent or, where nothing can be, not black."""
    channels = pixels[..., 3:] if pixels.ndim == 3 and pixels.shape[2] == 4 else pixels.reshape(*pixels.shape[:2], -1)
    return channels.max(2) > 0


def covered(polygons: Sequence[Sequence[float]], size: tuple[int, int], origin: str) -> np.ndarray:
    """``(H, W)`` bool: the pixels that polygons cover together, each x, y, x, y, ...

    Raises:
        DataError: the image's size or a coordinate is none that can be taken; rasterising ends the process there.
    """
    size = mask_size(*size, origin)
    if not all(abs(value) < FAR for polygon in polygons for value in polygon):
        raise DataError(f"{origin}: a corner of the outline is not a number of pixels below {FAR:.0f}")
    return coco_mask.decode(as_rle(list(polygons), size)) > 0


def mask_size(height: float, width: float, origin: str) -> tuple[int, int]:
    """The size of a mask that a file claims. Raises DataError where it is none that can be taken."""
    if not (height >= 1 and width >= 1 and height * width <= max_pixels()):
        raise DataError(f"{origin}: its mask is of {width:g} x {height:g} pixels; expected 1 to {max_pixels()} in all")
    return int(height), int(width)


def rows_of_runs(runs: np.ndarray, height: int, width: int, origin: str) -> np.ndarray:
    """``(H, W)`` bool of run lengths along rows, the first of zeros. Raises DataError where they do not fill it."""
    height, width = mask_size(height, width, origin)
    if (runs < 0).any() or (runs % 1).any() or runs.sum() != height * width:
        raise DataError(f"{origin}: its run lengths cover {runs.sum():g} pixels; expected {height} x {width}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs.astype(np.int64)).reshape(height, width)


def placed(patch: np.ndarray, x: int, y: int, size: tuple[int, int], origin: str) -> np.ndarray:
    """``(H, W)`` bool of an image with a patch whose top left pixel is x, y; what hangs over is cut off."""
    out = np.zeros(mask_size(*size, origin), bool)
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + patch.shape[0], size[0]), min(x + patch.shape[1], size[1])
    if bottom <= top or right <= left:
        raise DataError(f"{origin}: its mask lies at {x}, {y}, outside of the image ({size[1]} x {size[0]})")
    out[top:bottom, left:right] = patch[top - y : bottom - y, left - x : right - x]
    return out
