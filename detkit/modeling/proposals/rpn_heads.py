"""RPN heads."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Count, Positive
from detkit.layers import conv_stack, init_normal, same_pad
from detkit.modeling.interfaces import RPN_HEADS, RPNHead


@dataclasses.dataclass(frozen=True)
class RPNInit:
    """Standard deviations that an RPN head's weights begin with; biases begin at 0.

    The defaults are Detectron2's and torchvision's. null: 1 / sqrt(inputs).

    Args:
        convs: of the 3x3 convolutions.
        objectness: of the objectness, or the class logits.
        anchor_deltas: of the box deltas.
    """

    convs: Positive | None = 0.01
    objectness: Positive | None = 0.01
    anchor_deltas: Positive | None = 0.01


@RPN_HEADS.register()
class ConvRPNHead(RPNHead):
    """3x3 convolutions, then 1x1 convolutions to one objectness logit and four deltas an anchor (Ren et al. 2015).

    Args:
        conv_dims: channels of the 3x3 convolutions; -1 for as many as come in.
        init: how all layers begin.
    """

    def __init__(
        self,
        in_channels: int,
        num_anchors: int,
        *,
        conv_dims: tuple[Literal[-1] | Count, ...] = (-1,),
        init: RPNInit = RPNInit(),
    ):
        super().__init__(in_channels, num_anchors)
        channels = [in_channels]
        for dim in conv_dims:
            channels.append(channels[-1] if dim == -1 else dim)
        self.convs = conv_stack(channels)
        self.objectness = nn.Conv2d(channels[-1], num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(channels[-1], num_anchors * 4, kernel_size=1)
        for conv in self.convs:
            init_normal(conv, init.convs)
        init_normal(self.objectness, init.objectness)
        init_normal(self.anchor_deltas, init.anchor_deltas)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """See ``RPNHead.forward``."""
        objectness, deltas = [], []
        for x in features:
            x = self.convs(x)
            objectness.append(self.objectness(x))
            deltas.append(self.anchor_deltas(x))
        return objectness, deltas


@RPN_HEADS.register()
class SoftmaxRPNHead(RPNHead):
    """A 3x3 convolution, then 1x1 convolutions to two class logits, background and foreground, and four deltas.

    Matterport's head. Its objectness is the foreground's logit minus the background's: the sigmoid of that is the
    softmax's foreground probability, and its binary cross entropy the cross entropy of the two classes.

    Args:
        conv_dim: channels of the 3x3 convolution.
        anchor_stride: anchors stand on every so many cells of a map; the 3x3 convolution strides by it, padded as
            TensorFlow's SAME.
        init: how all layers begin.

    Raises:
        ValueError: a stride below 1.
    """

    def __init__(
        self,
        in_channels: int,
        num_anchors: int,
        *,
        conv_dim: Count = 512,
        anchor_stride: Count = 1,
        init: RPNInit = RPNInit(),
    ):
        super().__init__(in_channels, num_anchors)
        if anchor_stride < 1:
            raise ValueError(f"anchor_stride: expected at least 1, got {anchor_stride}")
        self.stride = anchor_stride
        self.convs = nn.ModuleList([nn.Conv2d(in_channels, conv_dim, kernel_size=3, stride=anchor_stride)])
        self.class_logits = nn.Conv2d(conv_dim, num_anchors * 2, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(conv_dim, num_anchors * 4, kernel_size=1)
        init_normal(self.convs[0], init.convs)
        init_normal(self.class_logits, init.objectness)
        init_normal(self.anchor_deltas, init.anchor_deltas)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """See ``RPNHead.forward``."""
        objectness, deltas = [], []
        for x in features:
            x = F.relu(self.convs[0](same_pad(x, 3, self.stride)), inplace=True)
            classes = self.class_logits(x).unflatten(1, (-1, 2))
            objectness.append(classes[:, :, 1] - classes[:, :, 0])
            deltas.append(self.anchor_deltas(x))
        return objectness, deltas
