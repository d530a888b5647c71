"""Anchor generators."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from detkit.config import Count, Interval, Length, Positive
from detkit.layers import ShapeSpec
from detkit.modeling.interfaces import ANCHOR_GENERATORS, AnchorGenerator
from detkit.structures import Boxes

_Values = Annotated[tuple[Positive, ...], Length(1)]
_ValuesByLevel = Annotated[tuple[_Values, ...], Length(1)]
Offset = Annotated[float, Interval(0, 1, below=True)]
Stride = Literal["nominal", "measured"]


@ANCHOR_GENERATORS.register()
class GridAnchorGenerator(AnchorGenerator):
    """Anchors of every size and aspect ratio at every location of a grid (Faster R-CNN, Ren et al. 2015).

    An anchor of size s and ratio r is s / sqrt(r) wide and s * sqrt(r) high. The order of sizes and ratios decides
    which rows of an RPN head's weights belong to which anchor, so a checkpoint needs the order that it was trained in.

    Args:
        sizes: square roots of the anchors' areas in pixels, one list a level; one list alone serves all levels.
        octave_scales: each size stands for so many, times ``2 ** (i / octave_scales)``: 3 in RetinaNet, with levels an
            octave apart (Lin et al. 2017).
        aspect_ratios: height / width, in this order; or one list a level.
        offset: where in its cell an anchor is centred, as a share of the stride: 0 is the corner, 0.5 the middle.
        order: how the anchors of a location run: size goes through the sizes, and within each through the ratios
            (Detectron2); ratio the other way round (torchvision, matterport).
        rounded: half widths and half heights are rounded to whole pixels, halves to even, as torchvision does.
        stride: nominal is the level's own, a power of two; measured is the padded batch's size divided by the map's,
            rounded down (torchvision), which is smaller at levels whose size was rounded up.

    Raises:
        ValueError: as many lists of sizes, or of ratios, as levels are needed, or one.
    """

    def __init__(
        self,
        input_shape: list[ShapeSpec],
        *,
        sizes: _ValuesByLevel = (
            (32.0,),
            (64.0,),
            (128.0,),
            (256.0,),
            (512.0,),
        ),
        octave_scales: Count = 1,
        aspect_ratios: _Values | _ValuesByLevel = (0.5, 1.0, 2.0),
        offset: Offset = 0.0,
        order: Literal["size", "ratio"] = "size",
        rounded: bool = False,
        stride: Stride = "nominal",
    ):
        super().__init__(input_shape)
        self.strides = [spec.stride for spec in input_shape]
        if not all(sizes) or not aspect_ratios or not all(aspect_ratios):
            raise ValueError("anchor_generator: expected at least one aspect ratio, and a size at each level")
        if not 0 <= offset < 1:
            raise ValueError(f"anchor_generator.offset: expected 0 <= offset < 1, got {offset}")
        self.offset, self.measured = offset, stride == "measured"
        per_level, ratios = (
            by_level(values, self.strides, name)
            for name, values in (("sizes", sizes), ("aspect_ratios", aspect_ratios))
        )
        octave = [2 ** (i / octave_scales) for i in range(octave_scales)]
        per_level = [tuple(size * scale for size in level for scale in octave) for level in per_level]
        self.num_anchors = [len(s) * len(r) for s, r in zip(per_level, ratios)]
        for level, level_values in enumerate(zip(per_level, ratios)):
            cell = _cell_anchors(*level_values, order == "ratio")
            cell = cell.round() if rounded else cell
            self.register_buffer(f"cell_anchors_{level}", cell, persistent=False)

    def forward(self, features: Sequence[Tensor], image_size: tuple[int, int]) -> list[Boxes]:
        """See ``AnchorGenerator.forward``."""
        return [Boxes(corners) for corners in self.corners(features, image_size)]

    def corners(self, features: Sequence[Tensor], image_size: tuple[int, int]) -> list[Tensor]:
        """The anchors as plain tensors ``(HWA, 4)``, for programs, which know no ``Boxes``."""
        anchors = []
        for level, feature in enumerate(features):
            cell = self.get_buffer(f"cell_anchors_{level}")
            height, width = feature.shape[-2:]
            step_y = step_x = self.strides[level]
            if self.measured:
                step_y, step_x = image_size[0] // height, image_size[1] // width
            xs = (torch.arange(width, device=cell.device) + self.offset) * step_x
            ys = (torch.arange(height, device=cell.device) + self.offset) * step_y
            y, x = torch.meshgrid(ys.float(), xs.float(), indexing="ij")
            shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
            anchors.append((shifts + cell).reshape(-1, 4))
        return anchors


@ANCHOR_GENERATORS.register()
class CellAnchorGenerator(GridAnchorGenerator):
    """One square a location, as large as a cell of the map: the locations of FCOS (Tian et al. 2019).

    Args:
        offset: where in its cell a location is, as a share of the stride: 0.5 is the middle (the paper, Detectron2), 0
            the corner (torchvision).
        stride: of the grid, as in ``GridAnchorGenerator``; the squares have the nominal one.
    """

    def __init__(self, input_shape: list[ShapeSpec], *, offset: Offset = 0.5, stride: Stride = "nominal"):
        sizes = tuple((float(spec.stride),) for spec in input_shape)
        super().__init__(input_shape, sizes=sizes, aspect_ratios=(1.0,), offset=offset, stride=stride)


def by_level(values: Sequence[Any], strides: Sequence[Any], option: str) -> list[tuple[float, ...]]:
    """The list of each level: ``values`` are numbers for all levels, or lists, one a level or one for all."""
    lists = [tuple(own) for own in (values if isinstance(values[0], Sequence) else [values])]
    if len(lists) not in (1, len(strides)):
        raise ValueError(
            f"anchor_generator.{option}: {len(lists)} lists for {len(strides)} feature levels (strides "
            f"{list(strides)}); give one list a level, or one for all"
        )
    return lists * len(strides) if len(lists) == 1 else lists


def _cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float], ratio_first: bool) -> Tensor:
    """``(A, 4)`` anchors around (0, 0)."""
    pairs = [(size, ratio) for size in sizes for ratio in aspect_ratios]
    if ratio_first:
        pairs = [(size, ratio) for ratio in aspect_ratios for size in sizes]
    rows = []
    for size, ratio in pairs:
        w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
        rows.append([-w / 2, -h / 2, w / 2, h / 2])
    return torch.tensor(rows)


def shared_by_levels(generator: AnchorGenerator, shapes: Sequence[ShapeSpec], part: str) -> tuple[int, int]:
    """Channels, and anchors a location, of levels that share a head. Raises ValueError where the levels differ."""
    counts, channels = set(generator.num_anchors), {shape.channels for shape in shapes}
    if len(counts) != 1 or len(channels) != 1:
        raise ValueError(
            f"{part}: its head is shared by all levels, so each needs as many anchors (got {generator.num_anchors}) "
            f"and channels (got {[shape.channels for shape in shapes]}) as the next"
        )
    return channels.pop(), counts.pop()


def per_anchor(x: Tensor, num_anchors: int) -> Tensor:
    """``(N, A * values, H, W)`` -> ``(N, H * W * A, values)``, in the anchors' order."""
    number, channels, height, width = x.shape  # sizes in full: to infer one of them, torch.export divides long formulas
    return x.permute(0, 2, 3, 1).reshape(number, height * width * num_anchors, channels // num_anchors)
