"""Transforms: geometric maps from one image to another, as values that images, coordinates and masks go through.

Coordinates are half-open pixels: an image spans 0 to its width and height, and a pixel's centre lies at +0.5.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
Region = tuple[int, int, int, int]
"""``(x1, y1, x2, y2)`` in whole pixels, half-open."""
ArrayT = TypeVar("ArrayT", np.ndarray, Tensor)


class Transform:
    """A geometric map from an image of ``input_size`` to one of ``output_size``, both ``(height, width)``.

    It is a value: it is not edited, and has no randomness. A subclass gives the sizes and ``matrix``; where the map is
    not projective, ``coords`` and ``inverse``. The rest follows, and is overridden where a faster way gives the same.
    """

    input_size: Size
    output_size: Size
    fill: int = 0
    """Value of the pixels of the output, in all channels, that no pixel of the input falls on."""

    @property
    def matrix(self) -> np.ndarray | None:
        """``(3, 3)`` float64: input to output for homogeneous coordinates (x, y, 1); None where there is none."""
        raise NotImplementedError

    def inverse(self) -> "Transform":
        """The map from output to input; what the transform cuts off does not come back."""
        raise NotImplementedError

    @property
    def steps(self) -> "tuple[Transform, ...]":
        """The transforms that it is composed of, in order; itself where it is not composed."""
        return (self,)

    @property
    def is_identity(self) -> bool:
        """Whether everything stays where it is."""
        return (
            self.input_size == self.output_size and self.matrix is not None and bool((self.matrix == np.eye(3)).all())
        )

    @property
    def cuts(self) -> bool:
        """Whether part of the input falls outside of the output."""
        height, width = self.output_size
        x1, y1, x2, y2 = self._bounds_of_all
        return min(x1, y1, width - x2, height - y2) < -1e-6

    @property
    def reverses(self) -> bool:
        """Whether left and right are swapped, as in a mirror."""
        return self.matrix is not None and bool(np.linalg.det(self.matrix) < 0)

    @property
    def keeps_boxes(self) -> bool:
        """Whether upright boxes stay upright boxes, so that a box around an object stays tight."""
        m = self.matrix
        if m is None or m[2, 0] or m[2, 1]:
            return False
        return bool((m[0, 1] == 0 and m[1, 0] == 0) or (m[0, 0] == 0 and m[1, 1] == 0))

    def coords(self, points: ArrayT) -> ArrayT:
        """``(..., 2)`` points (x, y) of the input, as points of the output."""
        assert self.matrix is not None
        x, y = points[..., 0], points[..., 1]
        out = [_weighted(x, y, row) for row in self.matrix[:2].tolist()]
        if (self.matrix[2] != (0, 0, 1)).any():
            scale = _weighted(x, y, self.matrix[2].tolist())
            out = [value / scale for value in out]
        return _stacked(out, points)

    def image(self, image: np.ndarray) -> np.ndarray:
        """``(H, W, C)`` uint8, resampled bilinearly."""
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
        height, width = self.input_size
        grid = torch.from_numpy(self._sources / (width / 2, height / 2) - 1).float()[None]
        out = F.grid_sample(pixels - self.fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        out = (out[0] + self.fill).round().clamp(0, 255)
        return np.ascontiguousarray(out.permute(1, 2, 0).to(torch.uint8).numpy())

    def label_map(self, labels: ArrayT, fill: float = 0) -> ArrayT:
        """``(..., H, W)`` values, one a pixel: each pixel of the output gets the nearest one of the input."""
        x, y = np.moveaxis(np.floor(self._sources), -1, 0)
        inside = (x >= 0) & (y >= 0) & (x < self.input_size[1]) & (y < self.input_size[0])
        rows, columns = (np.where(inside, index, 0).astype(np.int64) for index in (y, x))
        if isinstance(labels, Tensor):
            out: Any = labels[..., torch.from_numpy(rows), torch.from_numpy(columns)]
            out[..., torch.from_numpy(~inside)] = fill
        else:
            out = labels[..., rows, columns]
            out[..., ~inside] = fill
        return out

    def region(self, region: Region | None = None) -> Region | None:
        """The smallest region of the output that holds what is visible of one of the input, in whole pixels.

        None stands for a whole image, before and after. A region of which nothing is visible comes out empty.
        """
        height, width = self.output_size
        x1, y1, x2, y2 = self._bounds_of_all if region is None else self._bounds(region)
        left, right = (min(max(round(side), 0), width) for side in (x1, x2))
        top, bottom = (min(max(round(side), 0), height) for side in (y1, y2))
        whole = (left, top, right, bottom) == (0, 0, width, height)
        return None if whole and region is None else (left, top, right, bottom)

    def rim(self, boxes: ArrayT) -> ArrayT:
        """Where ``(N, 4)`` boxes go: ``(N, P, 2)`` points of their outlines in the output, their corners at least."""
        corners = _stacked([boxes[:, [0, 2, 2, 0]], boxes[:, [1, 1, 3, 3]]], boxes)
        if self.matrix is not None:
            return self.coords(corners)
        following = corners[:, [1, 2, 3, 0]]
        points = [corners + (following - corners) * (i / 8) for i in range(8)]
        return self.coords(torch.cat(points, 1) if isinstance(boxes, Tensor) else np.concatenate(points, 1))

    @cached_property
    def _sources(self) -> np.ndarray:
        """``(H', W', 2)``: the point of the input that each pixel's centre of the output comes from."""
        return self.inverse().coords(pixel_centres(self.output_size))

    @cached_property
    def _bounds_of_all(self) -> list[float]:
        return self._bounds((0, 0, self.input_size[1], self.input_size[0]))

    def _bounds(self, region: Region) -> list[float]:
        points = self.rim(np.array([region], np.float64))[0]
        return [*points.min(0).tolist(), *points.max(0).tolist()]


@dataclasses.dataclass(frozen=True)
class ProjectiveTransform(Transform):
    """Any map that keeps lines straight: rotation, shear, affine maps, a change of perspective.

    Args:
        input_size, output_size: ``(height, width)`` each.
        rows: the ``(3, 3)`` matrix, as nested sequences or an array; see ``Transform.matrix``.
        fill: value of what no pixel of the input falls on.
    """

    input_size: Size
    output_size: Size
    rows: Any
    fill: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(tuple(float(value) for value in row) for row in self.rows))

    @property
    def matrix(self) -> np.ndarray:
        return np.array(self.rows)

    def inverse(self) -> "ProjectiveTransform":
        rows = np.linalg.inv(self.matrix)
        return ProjectiveTransform(self.output_size, self.input_size, rows / rows[2, 2], self.fill)


@dataclasses.dataclass(frozen=True)
class Compose(Transform):
    """Several transforms, one after the other; each takes the size that the one before gives.

    Raises:
        ValueError: there is none, or one takes another size.
    """

    transforms: Sequence[Transform]

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(self.transforms))
        if not self.transforms:
            raise ValueError("Compose: expected at least one transform; what changes nothing is Resize(size, size)")
        for before, after in zip(self.transforms, self.transforms[1:]):
            if before.output_size != after.input_size:
                raise ValueError(
                    f"Compose: {after} takes {after.input_size}, the one before it gives {before.output_size}"
                )

    @property
    def input_size(self) -> Size:  # type: ignore[override]
        return self.transforms[0].input_size

    @property
    def output_size(self) -> Size:  # type: ignore[override]
        return self.transforms[-1].output_size

    @property
    def steps(self) -> tuple[Transform, ...]:
        return tuple(step for transform in self.transforms for step in transform.steps)

    @property
    def matrix(self) -> np.ndarray | None:
        """The product of all matrices; None where one has none."""
        product = np.eye(3)
        for step in self.steps:
            if step.matrix is None:
                return None
            product = step.matrix @ product
        return product

    @property
    def cuts(self) -> bool:
        """Whether any of them cuts."""
        return any(step.cuts for step in self.steps)

    def inverse(self) -> "Compose":
        """The inverses, in reverse."""
        return Compose([step.inverse() for step in reversed(self.steps)])

    def coords(self, points: ArrayT) -> ArrayT:
        for step in self.steps:
            points = step.coords(points)
        return points

    def image(self, image: np.ndarray) -> np.ndarray:
        """``(H, W, C)`` uint8, resampled by each in turn."""
        for step in self.steps:
            image = step.image(image)
        return image

    def label_map(self, labels: ArrayT, fill: float = 0) -> ArrayT:
        for step in self.steps:
            labels = step.label_map(labels, fill)
        return labels

    def region(self, region: Region | None = None) -> Region | None:
        for step in self.steps:
            region = step.region(region)
        return region


def pixel_centres(size: Size) -> np.ndarray:
    """``(H, W, 2)`` float64: x and y of the centre of each pixel of an image."""
    return np.stack(np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5), -1)


def _weighted(x: Any, y: Any, row: Sequence[float]) -> Any:
    """``row`` times (x, y, 1), without the terms that are zero."""
    a, b, shift = row
    if not b:
        return x * a + shift
    return (x * a + y * b if a else y * b) + shift


def _stacked(parts: Sequence[Any], like: ArrayT) -> ArrayT:
    return torch.stack(list(parts), -1) if isinstance(like, Tensor) else np.stack(parts, -1)
