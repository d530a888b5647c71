"""RPN heads."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from detkit.modeling.interfaces import RPN_HEADS, RPNHead


@RPN_HEADS.register()
class ConvRPNHead(RPNHead):
    """3x3 convolutions, then 1x1 convolutions to one objectness logit and four deltas an anchor (Ren et al. 2015).

    Args:
        conv_dims: channels of the 3x3 convolutions; -1 for as many as come in.
    """

    def __init__(self, in_channels: int, num_anchors: int, *, conv_dims: tuple[int, ...] = (-1,)):
        super().__init__(in_channels, num_anchors)
        convs, channels = [], in_channels
        for dim in conv_dims:
            out = channels if dim == -1 else dim
            convs.append(nn.Conv2d(channels, out, kernel_size=3, padding=1))
            channels = out
        self.convs = nn.ModuleList(convs)
        self.objectness = nn.Conv2d(channels, num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * 4, kernel_size=1)
        for layer in [*convs, self.objectness, self.anchor_deltas]:
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """See ``RPNHead.forward``."""
        objectness, deltas = [], []
        for x in features:
            for conv in self.convs:
                x = F.relu(conv(x), inplace=True)
            objectness.append(self.objectness(x))
            deltas.append(self.anchor_deltas(x))
        return objectness, deltas
