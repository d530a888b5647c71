"""Keypoints: named points of N objects, such as the joints of a person."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkit.structures.boxes import Boxes, as_int
from detkit.structures.transforms import Transform


class Keypoints:
    """P points of each of N objects, with their visibility. It is not edited.

    Indexing rows by a slice, an index tensor or array, or a bool mask gives ``Keypoints``; an int gives the ``(P, 3)``
    points of one object.

    Args:
        data: ``(N, P, 3)`` x, y and visibility: 0 not labelled, 1 labelled but hidden, 2 visible; of a prediction the
            score. x and y are half-open pixels: a point in the middle of the first pixel lies at (0.5, 0.5). A point of
            visibility 0 is (0, 0, 0).
        flip_pairs: the pairs of points that change places in a mirror, e.g. (left eye, right eye), by their numbers.
        skeleton: the pairs that a drawing joins by a line.

    Raises:
        ValueError: the data is not of shape (N, P, 3), or a pair names a point that is not there.
    """

    def __init__(
        self,
        data: "Tensor | np.ndarray | Sequence[Any]",
        flip_pairs: Sequence[tuple[int, int]] = (),
        skeleton: Sequence[tuple[int, int]] = (),
    ):
        self.tensor = torch.as_tensor(data, dtype=torch.float32)
        if self.tensor.ndim != 3 or self.tensor.shape[2] != 3:
            raise ValueError(f"keypoints: expected shape (N, P, 3), got {tuple(self.tensor.shape)}")
        self.flip_pairs = tuple((int(left), int(right)) for left, right in flip_pairs)
        self.skeleton = tuple((int(start), int(end)) for start, end in skeleton)
        points = [point for pair in self.flip_pairs for point in pair]
        if points and not 0 <= min(points) <= max(points) < self.tensor.shape[1]:
            raise ValueError(f"keypoints: flip_pairs {self.flip_pairs} name points beyond the {self.tensor.shape[1]}")

    @property
    def shape(self) -> torch.Size:
        """``(N, P, 3)``."""
        return self.tensor.shape

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item := as_int(item), int):
            return self.tensor[item]
        return self.with_points(self.tensor[torch.from_numpy(item) if isinstance(item, np.ndarray) else item])

    def __repr__(self) -> str:
        return f"Keypoints(num={len(self)}, points={self.shape[1]})"

    def with_points(self, tensor: Tensor) -> "Keypoints":
        """Other points ``(N, P, 3)`` of the same kinds: pairs and lines stay."""
        return Keypoints(tensor, self.flip_pairs, self.skeleton)

    def tolist(self) -> Any:
        """The numbers as nested lists."""
        return self.tensor.tolist()

    def numpy(self) -> np.ndarray:
        """The numbers as an array."""
        return self.tensor.numpy()

    def visible(self) -> Tensor:
        """``(N, P)`` bool: the point is labelled and in the image."""
        return self.tensor[..., 2] > 0

    def nonempty(self) -> Tensor:
        """``(N,)`` bool: at least one point is left."""
        return self.visible().any(1)

    def transform(self, transform: Transform) -> "Keypoints":
        """The points where the transform takes them; in a mirror the points of each pair change places.

        Where the transform cuts, points outside of its output are (0, 0, 0).
        """
        keypoints = self.tensor
        for step in transform.steps:
            points, visibility = step.coords(keypoints[..., :2]), keypoints[..., 2:]
            kept = visibility != 0
            if step.cuts:
                height, width = step.output_size
                x, y = points[..., :1], points[..., 1:]
                kept = kept & (x >= 0) & (y >= 0) & (x <= width) & (y <= height)
            keypoints = torch.where(kept, torch.cat([points, visibility], -1), 0.0)
            if step.reverses:
                keypoints = keypoints[:, self.mirrored()]
        return self.with_points(keypoints)

    def cells(self, boxes: Boxes, size: int) -> Tensor:
        """``(N, P)`` int64: the cell that each point lies in, of a grid of ``size`` x ``size`` cells over its object's
        box, counted row by row; -1 for a point that is not labelled or not in the box. The box's right and lower edges
        belong to the last cells.
        """
        corners, sides = boxes.tensor[:, None, :2], boxes.tensor[:, None, 2:] - boxes.tensor[:, None, :2]
        points = self.tensor[..., :2]
        place = ((points - corners) * (size / sides)).floor()
        place = torch.where(points == boxes.tensor[:, None, 2:], size - 1, place)
        inside = ((place >= 0) & (place < size)).all(-1) & self.visible()
        return torch.where(inside, place[..., 1] * size + place[..., 0], -1.0).long()

    def covered(self, hidden: Tensor) -> "Keypoints":
        """The points behind something that hides ``(H, W)`` pixels: what was visible there (2) is labelled only (1)."""
        height, width = hidden.shape
        x, y = self.tensor[..., 0].long().clamp(0, width - 1), self.tensor[..., 1].long().clamp(0, height - 1)
        keypoints = self.tensor.clone()
        keypoints[..., 2] = torch.where(hidden[y, x], keypoints[..., 2].clamp(max=1), keypoints[..., 2])
        return self.with_points(keypoints)

    def mirrored(self) -> list[int]:
        """The numbers of the points in a mirror image, in order."""
        order = list(range(self.shape[1]))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return order

    def to(self, *args: Any, **kwargs: Any) -> "Keypoints":
        """As ``Tensor.to``; the numbers stay float32."""
        return self.with_points(self.tensor.to(*args, **kwargs))

    def pin_memory(self) -> "Keypoints":
        """The same in page-locked memory."""
        return self.with_points(self.tensor.pin_memory())

    @staticmethod
    def cat(parts: "Sequence[Keypoints]") -> "Keypoints":
        """All objects of ``parts``, in order. Raises ValueError if they differ in points or pairs or there are none."""
        kinds = {(part.shape[1], part.flip_pairs) for part in parts}
        if len(kinds) != 1:
            raise ValueError(
                f"Keypoints.cat: expected the same points and flip_pairs, got {sorted(kinds) or 'nothing'}"
            )
        return parts[0].with_points(torch.cat([part.tensor for part in parts]))
