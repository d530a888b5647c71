"""SemanticFPNHead: a feature pyramid to a semantic map."""

from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Count, NonNegative, Recipe
from detkit.layers import GN, Norm, ShapeSpec, c2_msra_fill, conv_stack
from detkit.modeling.interfaces import SEMANTIC_HEADS, Features, SemanticHead
from detkit.modeling.semantic.maps import IGNORED
from detkit.structures import Losses


@SEMANTIC_HEADS.register()
class SemanticFPNHead(SemanticHead):
    """Every level is enlarged to the logits' size, the levels are added up, and a 1x1 convolution gives the logits.

    A level of s times their stride goes through log2(s) (at least one) 3x3 convolutions, and is doubled after each; one
    of their stride is not. The loss is the cross entropy at the image's size, a mean over the pixels of known class
    (Panoptic FPN, Kirillov et al. 2019, arXiv:1901.02446, section 3). Names of levels are ``convs.<level>.<number>``.

    Args:
        in_features: the levels, finest first.
        stride: of the logits, at most the finest level's; null: that level's.
        conv_dim: channels of the convolutions.
        norm: normalisation after each convolution; null for none.
        loss_weight: factor of the loss.

    Raises:
        ValueError: a level that is not there, or whose stride is not a power of two times that of the logits.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        *,
        in_features: tuple[str, ...] = ("p2", "p3", "p4", "p5"),
        stride: Count | None = None,
        conv_dim: Count = 128,
        norm: Recipe[Norm] | None = Recipe(GN),
        loss_weight: NonNegative = 0.5,
    ):
        super().__init__(input_shape, num_classes)
        missing = [name for name in in_features if name not in input_shape]
        if missing or not in_features:
            raise ValueError(
                f"semantic_head.in_features: {list(in_features)} has to name maps of {list(input_shape)}, finest first"
            )
        self.in_features, self.loss_weight = in_features, loss_weight
        finest = input_shape[in_features[0]].stride
        self.stride = stride or finest
        self._enlarged = finest // self.stride
        self._coarser = {name for name in in_features if input_shape[name].stride != self.stride}
        self.convs = nn.ModuleDict()
        for name in in_features:
            spec = input_shape[name]
            doublings = (spec.stride // self.stride).bit_length() - 1
            if doublings < 0 or self.stride << doublings != spec.stride:
                raise ValueError(
                    f"semantic_head.in_features: {name} has stride {spec.stride}; expected a power of two times "
                    f"{self.stride}, that of {'the logits' if stride else f'{in_features[0]}, the finest'}"
                )
            self.convs[name] = conv_stack([spec.channels, *[conv_dim] * max(doublings, 1)], norm=norm)
        self.predictor = nn.Conv2d(conv_dim, num_classes, kernel_size=1)
        c2_msra_fill(self.predictor)

    def forward(self, features: Features) -> Tensor:
        """``(N, K, H/s, W/s)`` logits; s is ``stride``."""
        height, width = (self._enlarged * side for side in features[self.in_features[0]].shape[-2:])
        total: Tensor | None = None
        for name, convs in self.convs.items():
            x = features[name]
            for conv in convs:  # type: ignore[attr-defined]
                x = conv(x)
                if name in self._coarser:
                    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = x[..., :height, :width]  # where a stride does not divide the image, a map covers a little more than it
            total = x if total is None else total + x
        return self.predictor(total)

    def loss(self, features: Features, targets: Tensor) -> Losses:
        """See ``SemanticHead.loss``. Term ``loss_sem_seg``."""
        logits, s = self(features).float(), self.stride
        enlarged = F.interpolate(logits, scale_factor=s, mode="bilinear", align_corners=False)
        enlarged = enlarged[..., : targets.shape[-2], : targets.shape[-1]]
        known = (targets != IGNORED).sum().float()
        correct = (enlarged.detach()[..., ::s, ::s].argmax(1) == targets[:, ::s, ::s]).sum()
        accuracy = correct / (targets[:, ::s, ::s] != IGNORED).sum()  # of one pixel in s * s; NaN where none is known
        total = F.cross_entropy(enlarged, targets, ignore_index=IGNORED, reduction="sum")
        loss = self.loss_weight * total / known.clamp(min=1)
        return Losses({"loss_sem_seg": loss}, {"semantic_head/accuracy": accuracy}, {"loss_sem_seg": known})

    def predict(self, features: Features) -> Tensor:
        """See ``SemanticHead.predict``."""
        return self(features).float()
