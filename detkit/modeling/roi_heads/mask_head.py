"""Mask heads."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Count, CountOrZero, NonNegative, Positive, Recipe
from detkit.layers import Norm, ShapeSpec, c2_msra_fill, conv_stack, init_normal
from detkit.modeling.interfaces import MASK_HEADS, Features, MaskHead, RoIPooler
from detkit.structures import Boxes, ClassRows, CropMethod, Instances, Losses


@dataclasses.dataclass(frozen=True)
class MaskTargets:
    """What a mask head is asked for: the true mask inside a box, on the head's grid.

    Args:
        method: roi_align averages over each cell, polygons are rasterised inside the box (Detectron2);
            roi_align_unaligned is its first version, half a pixel off (torchvision); crop_and_resize takes one bilinear
            sample a cell (TensorFlow, matterport).
        binary: a cell is object or not; false: it is the share of it that is object (torchvision).
    """

    method: CropMethod = "roi_align"
    binary: bool = True


@dataclasses.dataclass(frozen=True)
class MaskInit:
    """How a mask head's last layer begins; what lies before it begins as He et al. 2015 say.

    Args:
        predictor: standard deviation of its weights; 0.001 is Detectron2's, good for long trainings: in the first
            hundreds of steps little gets through it. null: 1 / sqrt(inputs). torchvision has sqrt(2 / classes).
    """

    predictor: Positive | None = 0.001


@MASK_HEADS.register()
class ConvUpsampleMaskHead(MaskHead):
    """Convolutions, a deconvolution that doubles the size, and one mask a class (Mask R-CNN, He et al. 2017).

    The loss is the binary cross entropy on the mask of the true class, a mean over all pixels.

    Args:
        pooler: features of a box.
        num_conv: number of 3x3 convolutions.
        conv_dim: their channels, and the deconvolution's.
        norm: normalisation after each convolution.
        conv_bias: whether convolutions have a bias beside their norm; without a norm they always have.
        class_agnostic: one mask for all classes instead of one a class.
        targets: how true masks are brought to the head's size.
        init: how the last layer begins.
        loss_weight: factor on the loss.
    """

    renamed_options: ClassVar[Mapping[str, str]] = {"norm_eps": "norm.eps"}

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        *,
        pooler: Recipe[RoIPooler],
        num_conv: CountOrZero = 4,
        conv_dim: Count = 256,
        norm: Recipe[Norm] | None = None,
        conv_bias: bool = False,
        class_agnostic: bool = False,
        targets: MaskTargets = MaskTargets(),
        init: MaskInit = MaskInit(),
        loss_weight: NonNegative = 1.0,
    ):
        super().__init__(input_shape, num_classes)
        self.targets, self.loss_weight = targets, loss_weight
        self.pooler = pooler(input_shape)
        channels = [self.pooler.output_shape.channels, *[conv_dim] * num_conv]
        self.convs = conv_stack(channels, norm=norm, bias=conv_bias or norm is None)
        self.deconv = nn.ConvTranspose2d(channels[-1], conv_dim, kernel_size=2, stride=2)
        c2_msra_fill(self.deconv)
        self.predictor = nn.Conv2d(conv_dim, 1 if class_agnostic else num_classes, kernel_size=1)
        init_normal(self.predictor, init.predictor)
        self.class_rows = {} if class_agnostic else {f"predictor.{kind}": ClassRows() for kind in ("weight", "bias")}

    def forward(self, features: Features, boxes: list[Boxes]) -> Tensor:
        """Mask logits ``(R, K or 1, M, M)``."""
        x = self.convs(self.pooler(features, boxes))
        return self.predictor(F.relu(self.deconv(x), inplace=True))

    def loss(self, features: Features, proposals: list[Instances]) -> Losses:
        """See ``MaskHead.loss``. Term ``loss_mask``."""
        logits = self(features, [p.boxes for p in proposals])
        return mask_losses(logits, proposals, self.targets).rescaled(self.loss_weight)

    def mask_probs(self, features: Features, boxes: list[Boxes], classes: Tensor) -> Tensor:
        """See ``MaskHead.mask_probs``."""
        return of_class(self(features, boxes), classes).float().sigmoid()


def mask_losses(logits: Tensor, proposals: list[Instances], targets: MaskTargets) -> Losses:
    """The binary cross entropy on the masks of the true classes, a mean over all cells: term ``loss_mask``.

    Args:
        logits: ``(R, K or 1, M, M)``.
        proposals: R foreground boxes, with ``classes`` and ``gt_masks``.
        targets: how true masks are brought to the logits' size.

    Raises:
        ValueError: an image's objects have no masks.
    """
    with_truth = [p for p in proposals if len(p)]
    normalisers = {"loss_mask": logits.new_full((), len(logits), dtype=torch.float32)}  # all have as many pixels
    if not with_truth:
        nothing = logits.new_full((), math.nan)
        return Losses({"loss_mask": logits.sum() * 0.0}, {"mask_head/accuracy": nothing}, normalisers)
    without = sum("gt_masks" not in p for p in with_truth)
    if without:
        raise ValueError(
            f"mask_head: in {without} of {len(with_truth)} images with objects these have no masks; train on data "
            "with masks (every one of several datasets that are put together) or set model.roi_heads.mask_head=null"
        )
    size = logits.shape[-1]
    cut = [p.gt_masks.crop_and_resize(p.boxes, size, targets.method, targets.binary) for p in with_truth]
    wanted = torch.cat(cut).to(logits.device).float()
    chosen = of_class(logits, torch.cat([p.classes for p in proposals])).float()
    loss = F.binary_cross_entropy_with_logits(chosen, wanted)
    accuracy = ((chosen.detach() > 0) == (wanted >= 0.5)).float().mean()
    return Losses({"loss_mask": loss}, {"mask_head/accuracy": accuracy}, normalisers)


def of_class(logits: Tensor, classes: Tensor) -> Tensor:
    """``(R, ...)``: of ``logits`` (R, K, ...) those of each row's class; (R, 1, ...) are for all classes."""
    rows = torch.arange(classes.shape[0], device=classes.device)
    return logits[:, 0] if logits.shape[1] == 1 else logits[rows, classes]
