"""Masks as one polygon, for formats that know nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask

from detkit.structures.rle import as_rle, region_of_rle

EDGES = (
    (-1, 0, (0, 0), (1, 0)),
    (1, 0, (1, 1), (0, 1)),
    (0, -1, (0, 1), (0, 0)),
    (0, 1, (1, 0), (1, 1)),
)
"""Of a pixel: the step in y and x to its neighbour, and the ends of the edge between them, the pixel on the right."""

CLOSE = 0.95
"""The least IoU of a mask with its outline of fewer corners; small objects, where a pixel matters, keep all."""


def one_polygon(segmentation: Any, size: tuple[int, int], tolerance: float = 0.0) -> list[float]:
    """x, y, x, y, ... that covers what a COCO segmentation covers; pieces and holes are joined by lines of no width.

    Args:
        segmentation: polygons or a compressed RLE; what covers nothing gives no point.
        size: ``(height, width)`` of the image.
        tolerance: see ``outlines``.
    """
    if not segmentation:
        return []
    if isinstance(segmentation, list):
        loops = [np.reshape(polygon, (-1, 2)) for polygon in segmentation]
        joined = _joined(loops)
        if len(loops) == 1 or _same(segmentation, joined, size):
            return joined
        united = _loops(as_rle(segmentation, size), size, tolerance)
        return _joined(_as_far_as(united, np.concatenate(loops)))  # the pieces overlap
    return _joined(_loops(segmentation, size, tolerance))


def _as_far_as(loops: Sequence[np.ndarray], points: np.ndarray) -> list[np.ndarray]:
    """Lines along pixels, which end where the points end that the pixels are of, so that the box is the same."""
    least, most = points.min(0), points.max(0)
    corners = np.concatenate(loops).clip(least, most)
    for axis in (0, 1):
        corners[corners[:, axis].argmin(), axis] = least[axis]
        corners[corners[:, axis].argmax(), axis] = most[axis]
    return np.split(corners, np.cumsum([len(loop) for loop in loops])[:-1])


def outlines(segmentation: Any, size: tuple[int, int], tolerance: float = 0.0) -> list[list[float]]:
    """Polygons that cover together what a COCO segmentation covers: its pieces, or one polygon where it has holes.

    Args:
        segmentation: polygons, which stay as they are, or a compressed RLE; none gives no polygon.
        size: ``(height, width)`` of the image.
        tolerance: pixels that outlines may lie beside the rim of an RLE, so that they need fewer corners.
    """
    if not segmentation or isinstance(segmentation, list):
        return segmentation or []
    loops = _loops(segmentation, size, tolerance)
    holes = any(_twice_area(loop) < 0 for loop in loops)
    return [_joined(loops)] if holes else [loop.reshape(-1).tolist() for loop in loops]


def _loops(rle: Any, size: tuple[int, int], tolerance: float) -> list[np.ndarray]:
    counts = rle["counts"]
    bitmap, (x, y, *_) = region_of_rle(counts.encode() if isinstance(counts, str) else counts, size[0])
    exact = [loop + (x, y) for loop in loops_of(bitmap)]
    while exact and tolerance > 0.7:  # at less, the steps of a slanting rim stay
        fewer = [simplified(loop, tolerance) for loop in exact]
        if coco_mask.iou([as_rle([_joined(fewer)], size)], [rle], [0]).item() > CLOSE:
            return fewer
        tolerance *= 0.75
    return exact


def simplified(loop: np.ndarray, tolerance: float) -> np.ndarray:
    """A closed line ``(P, 2)`` of fewer corners, from which none left out is farther (Douglas and Peucker 1973)."""
    points = np.concatenate([loop, loop[:1]])
    far = int(np.hypot(*(loop - loop[0]).T).argmax())
    keep, stack = {0, far}, [(0, far), (far, len(loop))]
    while stack:
        first, last = stack.pop()
        between, along = points[first + 1 : last] - points[first], points[last] - points[first]
        if len(between):
            away = np.abs(between[:, 0] * along[1] - between[:, 1] * along[0]) / np.hypot(*along)
            if away.max() > tolerance:
                at = first + 1 + int(away.argmax())
                keep.add(at)
                stack += [(first, at), (at, last)]
    return loop[sorted(keep)] if len(keep) > 2 else loop


def _twice_area(loop: np.ndarray) -> float:
    """Positive for a line that goes clockwise (y points down), as outer ones do."""
    following = np.roll(loop, -1, 0)
    return float((loop[:, 0] * following[:, 1] - loop[:, 1] * following[:, 0]).sum())


def loops_of(bitmap: np.ndarray) -> list[np.ndarray]:
    """``(P, 2)`` corners, x and y, of each closed line along the edges between the pixels of a mask and others."""
    inside = np.pad(np.asarray(bitmap, bool), 1)
    follows: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for dy, dx, first, last in EDGES:
        edges = inside & ~np.roll(inside, (-dy, -dx), (0, 1))
        for row, column in np.argwhere(edges).tolist():
            x, y = column - 1, row - 1
            follows.setdefault((x + first[0], y + first[1]), []).append((x + last[0], y + last[1]))
    loops = []
    while follows:
        start = next(iter(follows))
        line, at, heading = [], start, (0, 0)
        while True:
            ways = follows[at]
            # where two pixels touch at a corner only, the line turns to the right, so that they stay two
            right = (at[0] - heading[1], at[1] + heading[0])
            to = right if right in ways else ways[0]
            ways.remove(to)
            if not ways:
                del follows[at]
            step = (to[0] - at[0], to[1] - at[1])
            if step != heading:
                line.append(at)
            at, heading = to, step
            if at == start and (start[0] - heading[1], start[1] + heading[0]) not in follows.get(start, ()):
                break
        loops.append(np.array(line, np.float64))
    return loops


def _joined(loops: Sequence[np.ndarray]) -> list[float]:
    if not loops:
        return []
    first, *others = loops
    parts = [first]
    for loop in others:
        parts += [first[:1], loop, loop[:1]]
    return np.concatenate([*parts, first[:1]] if others else parts).reshape(-1).tolist()


def _same(polygons: list[Any], joined: list[float], size: tuple[int, int]) -> bool:
    return bool(coco_mask.iou([as_rle(polygons, size)], [as_rle([joined], size)], [0])[0, 0] > 0.999)
