"""Augmentations that change an image's scale."""

from typing import Annotated, Literal

import numpy as np

from detkit import structures
from detkit.config import Count, Length, Positive
from detkit.data.interfaces import AUGMENTATIONS, Augmentation, Record
from detkit.structures import Transform


@AUGMENTATIONS.register()
class ResizeShortestEdge(Augmentation):
    """Resizes so that the shorter side has a wanted length and the longer one does not exceed a limit.

    The aspect ratio is kept; sides are rounded to the nearest pixel, as Detectron2 does.

    Args:
        short_edge: lengths of the shorter side in pixels; one is drawn for each image.
        max_size: the longer side's limit in pixels; the shorter one then gets shorter.
        sample: choice draws one of ``short_edge``; range draws any length from the smallest to the largest.
    """

    def __init__(
        self,
        *,
        short_edge: Annotated[tuple[Count, ...], Length(1)] = (800,),
        max_size: Count = 1333,
        sample: Literal["choice", "range"] = "choice",
    ):
        super().__init__()
        if not short_edge or min(short_edge) < 1 or max_size < 1:
            raise ValueError(f"ResizeShortestEdge: expected lengths above 0, got {short_edge} and max_size {max_size}")
        self.short_edge, self.max_size, self.sample = tuple(short_edge), max_size, sample

    def transform(self, record: Record, rng: np.random.Generator) -> Transform:
        if self.sample == "choice":
            wanted = int(rng.choice(self.short_edge))
        else:
            wanted = int(rng.integers(min(self.short_edge), max(self.short_edge) + 1))
        return structures.Resize(record.size, shortest_edge_size(record.size, wanted, self.max_size))


@AUGMENTATIONS.register()
class Resize(Augmentation):
    """Resizes to one size, whatever the aspect ratio was.

    Args:
        size: ``(height, width)`` in pixels.
    """

    def __init__(self, *, size: tuple[Count, Count]):
        super().__init__()
        if min(size) < 1:
            raise ValueError(f"Resize.size: expected lengths above 0, got {size}")
        self.size = size

    def transform(self, record: Record, rng: np.random.Generator) -> Transform:
        return structures.Resize(record.size, self.size)


@AUGMENTATIONS.register()
class ResizeScale(Augmentation):
    """Scales the largest size that fits into a target by a random factor; the aspect ratio is kept.

    With ``FixedSizeCrop`` of the same target behind it this is large-scale jitter (Ghiasi et al. 2021, "Simple
    copy-paste is a strong data augmentation method for instance segmentation").

    Args:
        min_scale: the smallest factor.
        max_scale: the largest factor.
        target_size: ``(height, width)`` in pixels.
    """

    def __init__(
        self, *, min_scale: Positive = 0.1, max_scale: Positive = 2.0, target_size: tuple[Count, Count] = (1024, 1024)
    ):
        super().__init__()
        if not 0 < min_scale <= max_scale or min(target_size) < 1:
            raise ValueError(f"ResizeScale: min_scale {min_scale}, max_scale {max_scale}, target_size {target_size}")
        self.min_scale, self.max_scale, self.target_size = min_scale, max_scale, target_size

    def transform(self, record: Record, rng: np.random.Generator) -> Transform:
        factor = rng.uniform(self.min_scale, self.max_scale)
        height, width = record.size
        scale = min(self.target_size[0] * factor / height, self.target_size[1] * factor / width)
        return structures.Resize(record.size, (max(1, round(height * scale)), max(1, round(width * scale))))


def shortest_edge_size(size: tuple[int, ...], short_edge: int, max_size: int) -> tuple[int, int]:
    """The ``(height, width)`` that an image of ``size`` gets from ``ResizeShortestEdge``."""
    height, width = size
    scale = short_edge / min(height, width)
    sides: tuple[float, float] = (short_edge, scale * width) if height < width else (scale * height, short_edge)
    if max(sides) > max_size:
        shrink = max_size / max(sides)
        sides = (sides[0] * shrink, sides[1] * shrink)
    return max(1, int(sides[0] + 0.5)), max(1, int(sides[1] + 0.5))
