"""RoI heads and box heads that follow the rules of matterport's Mask R-CNN."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Count, Recipe
from detkit.layers import ConvNorm, FrozenBN, Norm, ShapeSpec
from detkit.modeling.box_losses import SmoothL1BoxLoss
from detkit.modeling.class_losses import SoftmaxClassLoss
from detkit.modeling.interfaces import BOX_HEADS, ROI_HEADS, BoxCoder, BoxLoss, ClassLoss, Features, RoIPooler
from detkit.modeling.roi_heads.box_head import PROPOSAL_CODER, BoxInit, Detection, FastRCNNHead
from detkit.modeling.roi_heads.standard import StandardRoIHeads
from detkit.modeling.sampling import is_foreground
from detkit.registry import Removed
from detkit.structures import Boxes, Instances


@ROI_HEADS.register()
class MatterportRoIHeads(StandardRoIHeads):
    """``StandardRoIHeads`` whose background is sampled in proportion to the foreground that was found.

    So an image without foreground gives no sample at all.
    """

    renamed_options: ClassVar[Mapping[str, str | Removed]] = {
        "fill_background": Removed("write name: StandardRoIHeads", default=False)
    }

    @torch.no_grad()
    def sample(self, labelled: Sequence[Instances]) -> list[Instances]:
        """See ``StandardRoIHeads.sample``."""
        sampled, factor = super().sample(labelled), 1 / self.sampling.positive_fraction
        numbers = [int(is_foreground(image.classes, self.num_classes).sum()) for image in sampled]
        return [image[: n + math.floor(n * factor - n)] for n, image in zip(numbers, sampled)]


@BOX_HEADS.register()
class ConvBNBoxHead(FastRCNNHead):
    """Two fully connected layers with norms, written as convolutions: matterport's classifier head.

    A convolution over the whole region, norm, ReLU, a 1x1 convolution, norm, ReLU; then class scores and box deltas.
    The convolutions have biases beside their norms.

    Args:
        conv_dim: channels of both convolutions.
    """

    renamed_options: ClassVar[Mapping[str, str | Removed]] = {
        "norm_eps": "norm.eps",
        "detection.one_class_per_region": Removed(default=False, becomes=((True, "MatterportBoxHead"),)),
        "detection.round_boxes": Removed(default=False, becomes=((True, "MatterportBoxHead"),)),
    }

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        *,
        pooler: Recipe[RoIPooler],
        conv_dim: Count = 1024,
        norm: Recipe[Norm] | None = Recipe(FrozenBN, {"eps": 1e-3}),
        box_coder: Recipe[BoxCoder] = PROPOSAL_CODER,
        box_loss: Recipe[BoxLoss] = Recipe(SmoothL1BoxLoss),
        detection: Detection = Detection(),
        init: BoxInit = BoxInit(),
        class_loss: Recipe[ClassLoss] = Recipe(SoftmaxClassLoss),
    ):
        super().__init__(input_shape, num_classes)
        self.pooler = pooler(input_shape)
        shape, relu = self.pooler.output_shape, nn.ReLU(inplace=True)
        if shape.height is None or shape.height != shape.width:
            raise ValueError(f"box_head: its pooler must give regions of a fixed, square size, got {shape}")
        self.convs = nn.Sequential(
            ConvNorm(shape.channels, conv_dim, shape.height, padding=0, bias=True, norm=norm, activation=relu),
            ConvNorm(conv_dim, conv_dim, 1, bias=True, norm=norm, activation=relu),
        )
        self.init_predictor(conv_dim, num_classes, False, box_coder, box_loss, detection, init, class_loss)

    def region_features(self, features: Features, boxes: list[Boxes]) -> Tensor:
        """``(R, conv_dim)``."""
        return self.convs(self.pooler(features, boxes)).flatten(1)


class MatterportDetections(FastRCNNHead):
    """Matterport's rules for detections, to be mixed into a box head.

    A proposal can only become an object of its likeliest class, and none where that is the background. Boxes are
    rounded to whole pixels before NMS, halves to even.
    """

    def candidates(self, boxes: Tensor, probs: Tensor, proposals: Instances) -> Instances:
        """See ``FastRCNNHead.candidates``."""
        likeliest = F.one_hot(probs.argmax(dim=1), probs.shape[1]).bool()
        found = super().candidates(boxes, probs.masked_fill(~likeliest, 0.0), proposals)
        return found.with_fields(boxes=Boxes(found.boxes.tensor.round()))


@BOX_HEADS.register()
class MatterportBoxHead(MatterportDetections, ConvBNBoxHead):
    """``ConvBNBoxHead`` with the rules of ``MatterportDetections``."""

    renamed_options: ClassVar[Mapping[str, str | Removed]] = {
        f"detection.{option}": Removed("write name: ConvBNBoxHead for detections without it", default=True)
        for option in ("one_class_per_region", "round_boxes")
    }
