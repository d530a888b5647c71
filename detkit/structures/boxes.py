"""RowTensor: a tensor with an object a row. Boxes: axis-aligned boxes as an (N, 4) tensor."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from detkit.structures.transforms import Transform

RowsT = TypeVar("RowsT", bound="RowTensor")


def as_int(item: Any) -> Any:
    """An index of one row as an int, also where it is a number of numpy's or a tensor of one (``scores.argmax()``);
    any other index as it is."""
    return int(item) if getattr(item, "ndim", None) == 0 else item


class RowTensor(Tensor):
    """A tensor with an object a row. Every torch operator takes it and gives a plain tensor.

    Indexing rows by a slice, an index tensor or array, or a bool mask gives the same class; an int gives that row as a
    plain tensor.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def tensor(self) -> Tensor:
        """The same values as a plain tensor."""
        return self.as_subclass(Tensor)

    def __getitem__(self, item: Any) -> Any:
        chosen = self.tensor[torch.from_numpy(item) if isinstance(item, np.ndarray) else item]
        return chosen if isinstance(item, tuple) or chosen.ndim != self.ndim else type(self)(chosen)

    def __deepcopy__(self: RowsT, memo: dict[int, Any]) -> RowsT:
        return type(self)(self.tensor.clone())

    def to(self: RowsT, *args: Any, **kwargs: Any) -> RowsT:  # type: ignore[override]
        """As ``Tensor.to``; the type of the values stays."""
        return type(self)(self.tensor.to(*args, **kwargs))


class Boxes(RowTensor):
    """``(N, 4)`` float32 boxes ``(x1, y1, x2, y2)`` in absolute pixels, half-open: width = x2 - x1.

    Raises:
        ValueError: the data is not of shape (N, 4). An empty sequence gives (0, 4).
    """

    def __new__(cls, data: "Tensor | Sequence[Any]") -> "Boxes":
        tensor = torch.as_tensor(data, dtype=torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        if tensor.ndim != 2 or tensor.shape[1] != 4:
            raise ValueError(f"boxes: expected shape (N, 4), got {tuple(tensor.shape)}")
        return tensor.as_subclass(cls)

    def area(self) -> Tensor:
        """``(N,)`` areas in square pixels."""
        return (self[:, 2] - self[:, 0]) * (self[:, 3] - self[:, 1])

    def nonempty(self, min_size: float = 0.0) -> Tensor:
        """``(N,)`` bool: both sides are longer than ``min_size`` pixels."""
        return (self[:, 2] - self[:, 0] > min_size) & (self[:, 3] - self[:, 1] > min_size)

    def clip(self, image_size: tuple[int, int]) -> "Boxes":  # type: ignore[override]
        """The boxes cut to an image of ``(height, width)``."""
        return self.clip_to((0, 0, image_size[1], image_size[0]))

    def clip_to(self, region: tuple[float, float, float, float]) -> "Boxes":
        """The boxes cut to a region ``(x1, y1, x2, y2)``; what lies outside becomes a line or point on its rim."""
        left, top, right, bottom = region
        x1, y1, x2, y2 = self.tensor.unbind(1)
        inside = x1.clamp(left, right), y1.clamp(top, bottom), x2.clamp(left, right), y2.clamp(top, bottom)
        return Boxes(torch.stack(inside, 1))

    def transform(self, transform: Transform) -> "Boxes":
        """The boxes around where theirs go, cut to what is visible where the transform cuts."""
        boxes = self
        for step in transform.steps:
            boxes = boxes.outlines(step)
            if step.cuts:
                height, width = step.output_size
                boxes = boxes.clip_to(step.region() or (0, 0, width, height))
        return boxes

    def outlines(self, transform: Transform) -> "Boxes":
        """As ``transform``, but whole, even where that is outside of the image."""
        points = transform.rim(self.tensor)
        return Boxes(torch.cat([points.amin(1), points.amax(1)], 1))

    @staticmethod
    def cat(parts: "Sequence[Boxes]") -> "Boxes":
        """All rows of ``parts``, in order."""
        return Boxes(torch.cat([p.tensor for p in parts]) if parts else torch.zeros(0, 4))
