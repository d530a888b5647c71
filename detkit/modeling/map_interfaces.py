"""The roles that make maps of feature maps. Import them from ``interfaces.py``: read it first."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from detkit.layers import ShapeSpec
from detkit.registry import Registry, required
from detkit.structures import Losses

Features = dict[str, Tensor]
"""Feature maps by name, each (N, C, H/s, W/s), ordered from the finest to the coarsest."""


class Neck(nn.Module):
    """Feature maps to feature maps. ``output_shape`` names them, finest first; see ``Backbone`` for the sizes."""

    output_shape: dict[str, ShapeSpec]
    size_divisibility: int = 1
    square_size: int | None = None

    def __init__(self, input_shape: dict[str, ShapeSpec]):
        super().__init__()

    @required
    def forward(self, features: Features) -> Features:
        """Maps of the backbone -> maps of the neck."""
        raise NotImplementedError

    @classmethod
    def check_strides(cls, strides: Mapping[str, int], options: Mapping[str, Any]) -> None:
        """Raises ValueError where a neck of these options does not take maps of these strides, named as by the
        backbone, finest first: asked before anything is built."""


class TopBlock(nn.Module):
    """Feature maps coarser than a neck's own. ``output_shape`` names them, finest first."""

    output_shape: dict[str, ShapeSpec]

    def __init__(self, input_shape: dict[str, ShapeSpec], out_channels: int):
        super().__init__()

    @required
    def forward(self, features: Features) -> Features:
        """The neck's inputs and its own maps (``input_shape`` has both) -> the extra maps alone."""
        raise NotImplementedError


class RPNHead(nn.Module):
    """Feature maps to objectness and box deltas, with weights shared by all levels."""

    stride: int = 1
    """Cells of a feature map for each cell that the head looks at; anchors stand on the head's own grid."""

    def __init__(self, in_channels: int, num_anchors: int):
        super().__init__()

    @required
    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level: objectness logits (N, A, H/stride, W/stride) and deltas (N, 4A, H/stride, W/stride)."""
        raise NotImplementedError


class SemanticHead(nn.Module):
    """Feature maps to the class of each pixel. K is here the number of classes of the semantic map."""

    def __init__(self, input_shape: dict[str, ShapeSpec], num_classes: int):
        super().__init__()

    @required
    def loss(self, features: Features, targets: Tensor) -> Losses:
        """``targets`` ``(N, H, W)`` int64: the class of each pixel of the padded batch, -1 where it is not known."""
        raise NotImplementedError

    @required
    def predict(self, features: Features) -> Tensor:
        """Logits ``(N, K, H/s, W/s)``; those of the pixels between are interpolated bilinearly."""
        raise NotImplementedError


NECKS: Registry[Neck] = Registry("neck", Neck)
RPN_HEADS: Registry[RPNHead] = Registry("RPN head", RPNHead)
TOP_BLOCKS: Registry[TopBlock] = Registry("top block", TopBlock)
SEMANTIC_HEADS: Registry[SemanticHead] = Registry("semantic head", SemanticHead)
