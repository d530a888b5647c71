"""Extra coarse levels on top of a feature pyramid."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.layers import ShapeSpec, c2_xavier_fill
from detkit.modeling.interfaces import TOP_BLOCKS, Features, TopBlock
from detkit.modeling.necks.levels import level_name


@TOP_BLOCKS.register()
class LastLevelMaxPool(TopBlock):
    """One more level: every second cell of the coarsest one (Lin 2017, section 4.1). The ``p6`` of Faster R-CNN."""

    def __init__(self, input_shape: dict[str, ShapeSpec], out_channels: int):
        super().__init__(input_shape, out_channels)
        self._source, shape = list(input_shape.items())[-1]
        self._name = level_name(shape.stride * 2)
        self.output_shape = {self._name: ShapeSpec(channels=shape.channels, stride=shape.stride * 2)}

    def forward(self, features: Features) -> Features:
        """See ``TopBlock.forward``."""
        return {self._name: F.max_pool2d(features[self._source], kernel_size=1, stride=2)}


@TOP_BLOCKS.register()
class LastLevelP6P7(TopBlock):
    """Two more levels by 3x3 convolutions of stride 2, as in RetinaNet (Lin 2017, arXiv:1708.02002, footnote 2).

    Args:
        in_feature: the map that ``p6`` is made from; null for the backbone's coarsest one (the last of that stride), as
            in the paper.

    Raises:
        ValueError: there is no such map.
    """

    def __init__(self, input_shape: dict[str, ShapeSpec], out_channels: int, *, in_feature: str | None = None):
        super().__init__(input_shape, out_channels)
        coarsest = max(shape.stride for shape in input_shape.values())
        coarsest_names = [name for name, shape in input_shape.items() if shape.stride == coarsest]
        # the backbone's maps stand before the levels that the neck made of them, one each
        self._source = in_feature or coarsest_names[(len(coarsest_names) - 1) // 2]
        if self._source not in input_shape:
            raise ValueError(f"in_feature: there is no map '{in_feature}'; choose one of {', '.join(input_shape)}")
        self.p6 = nn.Conv2d(input_shape[self._source].channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        stride = input_shape[self._source].stride
        self.output_shape = {
            level_name(stride * factor): ShapeSpec(channels=out_channels, stride=stride * factor) for factor in (2, 4)
        }
        for conv in (self.p6, self.p7):
            c2_xavier_fill(conv)

    def forward(self, features: Features) -> Features:
        """See ``TopBlock.forward``."""
        p6 = self.p6(_two_wide(features[self._source]))
        return dict(zip(self.output_shape, (p6, self.p7(_two_wide(F.relu(p6))))))


def _two_wide(x: Tensor) -> Tensor:
    """A map of one column with a column of zeros beside it, which is nothing new to a padded convolution of stride 2.

    Of a single column, on the CPU and in bfloat16, oneDNN (3.12, in torch 2.14) leaves the gradient of the taps that
    see only padding as the memory was.
    """
    return F.pad(x, (0, 1)) if x.is_cpu and x.shape[-1] == 1 and torch.is_grad_enabled() else x
