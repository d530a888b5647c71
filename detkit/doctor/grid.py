"""Anchors as a grid: how well the best of them fits a box, without listing them all."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


@dataclasses.dataclass(frozen=True)
class Level:
    """The anchors of one feature level: A shapes at every point of a grid.

    Args:
        cells: ``(A, 4)`` xyxy of the anchors at the first point.
        step: ``(x, y)`` pixels between points.
    """

    cells: np.ndarray
    step: tuple[float, float]


def anchored_part(model: Any) -> tuple[str, Any, Any] | None:
    """The part of a detector that has anchors and assigns them by IoU: its option's path, itself and its matcher; None
    where there is none."""
    for name in ("proposal_generator", "head"):
        part = getattr(model, name, None)
        matcher = getattr(part, "matcher", None) or getattr(getattr(part, "assigner", None), "matcher", None)
        if matcher is not None and hasattr(part, "anchor_generator") and hasattr(part, "in_features"):
            return f"model.{name}", part, matcher
    return None


def grid_of(model: Any, part: Any, size: tuple[int, int]) -> list[Level] | None:
    """The levels of the anchors of a model's ``part`` on an input of ``(height, width)``; None: they are no grid."""
    generator, names = part.anchor_generator, part.in_features
    shapes = (model.backbone if model.neck is None else model.neck).output_shape
    strides = [shapes[name].stride * getattr(getattr(part, "head", None), "stride", 1) for name in names]
    maps = [torch.empty(1, 1, *(max(2, -(-side // stride)) for side in size)) for stride in strides]
    levels = []
    for anchors, count, feature in zip(generator(maps, size), generator.num_anchors, maps):
        grid = anchors.tensor.cpu().reshape(*feature.shape[-2:], count, 4).numpy().astype(np.float64)
        step = (float(grid[0, 1, 0, 0] - grid[0, 0, 0, 0]), float(grid[1, 0, 0, 1] - grid[0, 0, 0, 1]))
        levels.append(Level(grid[0, 0], step))
        if min(step) <= 0 or not np.allclose(grid[1, 1], grid[0, 0] + np.array([*step, *step])):
            return None
    return levels


def best_iou(boxes: np.ndarray, sizes: np.ndarray, levels: Sequence[Level]) -> np.ndarray:
    """``(N,)`` the IoU of each box with the best anchor.

    Of boxes of one shape, the one whose centre is nearest in x and in y overlaps most, so only the nearest point of
    each grid is compared.

    Args:
        boxes: ``(N, 4)`` xyxy.
        sizes: ``(N, 2)`` height and width of the image that each box is in.
        levels: the anchors.
    """
    best = np.zeros(len(boxes))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = boxes[:, 2:] - boxes[:, :2]
    for level in levels:
        step = np.array(level.step)
        last = np.maximum(np.ceil(sizes[:, ::-1] / step), 1) - 1
        for cell in level.cells:
            own = cell[2:] - cell[:2]
            point = np.clip(np.round((centres - (cell[:2] + cell[2:]) / 2) / step), 0, last)
            first = cell[:2] + point * step
            reach = np.minimum(boxes[:, 2:], first + own) - np.maximum(boxes[:, :2], first)
            overlap = np.clip(reach, 0, None).prod(1)
            best = np.maximum(best, overlap / np.maximum(sides.prod(1) + own.prod() - overlap, 1e-9))
    return best
