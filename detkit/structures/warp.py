"""Warp: a geometric transform that moves every pixel in its own way, such as an elastic one."""

import dataclasses
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.structures.transforms import ArrayT, Size, Transform, pixel_centres

STEPS = 20
"""Of the iteration that inverts the displacements; each makes the error smaller where they do not fold the image."""


@dataclasses.dataclass(frozen=True, eq=False)
class Warp(Transform):
    """A smooth map between images of one size that is given by its way back.

    Args:
        displacement: ``(H, W, 2)`` in pixels: a pixel of the output shows the point (x, y) + displacement of the input.
        fill: value of the output's pixels whose point is not in the input.
    """

    displacement: np.ndarray
    fill: int = 0

    @property
    def input_size(self) -> Size:  # type: ignore[override]
        return self.displacement.shape[0], self.displacement.shape[1]

    @property
    def output_size(self) -> Size:  # type: ignore[override]
        return self.input_size

    @property
    def matrix(self) -> None:
        return None

    def coords(self, points: ArrayT) -> ArrayT:
        """``(..., 2)`` points of the input, as points of the output, found by iteration."""
        wanted = torch.as_tensor(points).double()
        moved = wanted
        for _ in range(STEPS):
            moved = wanted - self._displacement_at(moved)
        return moved.to(points.dtype) if isinstance(points, Tensor) else moved.numpy().astype(points.dtype)

    def inverse(self) -> "Warp":
        """The map with the opposite displacements, at the pixels' centres of the input."""
        centres = pixel_centres(self.input_size)
        return Warp(self.coords(centres) - centres, self.fill)

    def _displacement_at(self, points: Tensor) -> Tensor:
        height, width = self.input_size
        field = torch.from_numpy(self.displacement).to(points).permute(2, 0, 1)[None]
        grid = points.reshape(1, 1, -1, 2) / points.new_tensor([width / 2, height / 2]) - 1
        values = F.grid_sample(field, grid, padding_mode="border", align_corners=False)
        return values[0, :, 0].t().reshape(points.shape)

    @cached_property
    def _sources(self) -> np.ndarray:
        return pixel_centres(self.output_size) + self.displacement
