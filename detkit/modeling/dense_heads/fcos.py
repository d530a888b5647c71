"""FCOS's head: boxes around points. N images, A points over all levels."""

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Count, CountOrZero, Fraction, Interval, Recipe
from detkit.layers import GN, Norm, ShapeSpec, init_normal
from detkit.modeling.anchors import CellAnchorGenerator
from detkit.modeling.box_coder import SideBoxCoder, distances_to_sides
from detkit.modeling.box_losses import GIoUBoxLoss, only_foreground
from detkit.modeling.class_losses import FocalClassLoss
from detkit.modeling.dense_heads.assigners import CentreAssigner
from detkit.modeling.dense_heads.normalisers import MovingNormaliser
from detkit.modeling.dense_heads.retinanet import RetinaNetHead
from detkit.modeling.interfaces import (
    DENSE_HEADS,
    AnchorGenerator,
    Assigner,
    BoxCoder,
    BoxLoss,
    ClassLoss,
    Normaliser,
    Suppression,
)
from detkit.modeling.suppression import HardNMS


@DENSE_HEADS.register()
class FCOSHead(RetinaNetHead):
    """``RetinaNetHead`` with an anchor a cell, and a guess of how far it is from its object's centre (Tian et al. 2019,
    arXiv:1904.01355, and 2020, arXiv:2006.09214).

    The centre-ness comes from the convolutions of the deltas; the score of a box is the root of its class's probability
    times its centre-ness. The options are those of ``RetinaNetHead``.
    """

    terms = ("loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr")

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        *,
        anchor_generator: Recipe[AnchorGenerator] = Recipe(CellAnchorGenerator),
        in_features: tuple[str, ...] | None = None,
        num_conv: CountOrZero = 4,
        norm: Recipe[Norm] | None = Recipe(GN),
        conv_bias: bool = True,
        prior: Annotated[float, Interval(0, 1, above=True, below=True)] = 0.01,
        assigner: Recipe[Assigner] = Recipe(CentreAssigner),
        box_coder: Recipe[BoxCoder] = Recipe(SideBoxCoder),
        class_loss: Recipe[ClassLoss] = Recipe(FocalClassLoss),
        box_loss: Recipe[BoxLoss] = Recipe(GIoUBoxLoss),
        normaliser: Recipe[Normaliser] = Recipe(MovingNormaliser, {"start": 300.0}),
        pre_nms_topk: Count = 1000,
        clip_boxes: bool = False,
        score_thresh: Fraction = 0.2,
        nms_thresh: Fraction = 0.6,
        max_detections: Count = 100,
        nms: Recipe[Suppression] = Recipe(HardNMS),
    ):
        super().__init__(
            input_shape,
            num_classes,
            anchor_generator=anchor_generator,
            in_features=in_features,
            num_conv=num_conv,
            norm=norm,
            conv_bias=conv_bias,
            prior=prior,
            assigner=assigner,
            box_coder=box_coder,
            class_loss=class_loss,
            box_loss=box_loss,
            normaliser=normaliser,
            pre_nms_topk=pre_nms_topk,
            clip_boxes=clip_boxes,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            max_detections=max_detections,
            nms=nms,
        )
        self.centreness = nn.Conv2d(self.bbox_pred.in_channels, self.num_anchors, 3, padding=1)
        init_normal(self.centreness, 0.01)

    def outputs(self, cls_maps: Tensor, box_maps: Tensor) -> dict[str, Tensor]:
        """See ``RetinaNetHead.outputs``; ``centreness`` too."""
        return {**super().outputs(cls_maps, box_maps), "centreness": self.centreness(box_maps)}

    def box_sums(
        self, predictions: dict[str, Tensor], reference: Tensor, gt_boxes: Tensor, foreground: Tensor
    ) -> dict[str, Tensor]:
        """See ``RetinaNetHead.box_sums``."""
        corners = only_foreground(reference, foreground.flatten())
        truth = only_foreground(gt_boxes, foreground.flatten())
        distances = distances_to_sides((corners[:, :2] + corners[:, 2:]) / 2, truth)
        target = centreness(distances).unflatten(0, foreground.shape)
        logits = predictions["centreness"].squeeze(2)
        errors = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        sums = super().box_sums(predictions, reference, gt_boxes, foreground)
        return {**sums, self.terms[2]: errors.masked_fill(~foreground, 0.0).sum(dim=1)}

    def scores(self, predictions: dict[str, Tensor]) -> Tensor:
        """See ``RetinaNetHead.scores``."""
        return (super().scores(predictions) * predictions["centreness"].sigmoid()).sqrt()


def centreness(distances: Tensor) -> Tensor:
    """How central points are, 0..1: 1 in the centre of the box, 0 at its sides (Tian et al. 2019, equation 3).

    Args:
        distances: ``(N, 4)`` of the points from left, top, right and bottom.
    """
    near, far = distances.clamp(min=0).unflatten(1, (2, 2)).aminmax(dim=1)
    return (near / far.clamp(min=torch.finfo(far.dtype).tiny)).prod(dim=1).sqrt()
