"""Box regression losses."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import distance_box_iou_loss, generalized_box_iou_loss

from detkit.config import NonNegative, broken_contract
from detkit.modeling.contracts import encoded
from detkit.modeling.interfaces import BOX_LOSSES, BoxCoder, BoxLoss

MeanOver = Literal["samples", "foreground"]
"""What the sum of the box losses over the foreground is divided by."""


class WeightedBoxLoss(BoxLoss):
    """What the box losses have in common.

    Args:
        weight: factor on the loss.
        mean_over: samples divides the sum over the foreground by the number of all samples, background included, so
            that every sample weighs the same (Fast R-CNN); foreground by the number of foreground boxes.
    """

    def __init__(self, *, weight: NonNegative = 1.0, mean_over: MeanOver = "samples"):
        super().__init__()
        self.weight, self.mean_over = weight, mean_over

    def normaliser(self, num_foreground: Tensor, num_samples: Tensor) -> Tensor:
        """See ``BoxLoss.normaliser``."""
        return num_samples if self.mean_over == "samples" else num_foreground


@BOX_LOSSES.register()
class SmoothL1BoxLoss(WeightedBoxLoss):
    """Smooth L1 on the deltas (Fast R-CNN, Girshick 2015, equation 3).

    Args:
        beta: where the loss turns from quadratic to linear; 0 is L1.
        mean_over: samples divides the sum over the foreground by the number of all samples, background included, so
            that every sample weighs the same (Fast R-CNN); foreground by its own number of deltas (matterport).
    """

    def __init__(self, *, beta: NonNegative = 0.0, weight: NonNegative = 1.0, mean_over: MeanOver = "samples"):
        super().__init__(weight=weight, mean_over=mean_over)
        self.beta = beta

    def forward(self, box_coder: BoxCoder, deltas: Tensor, reference: Tensor, gt_boxes: Tensor) -> Tensor:
        """See ``BoxLoss.forward``."""
        target = encoded(box_coder, reference, gt_boxes)
        losses = F.smooth_l1_loss(deltas.float(), target, beta=self.beta, reduction="none")
        return self.weight * (losses.sum(dim=1) if self.mean_over == "samples" else losses.mean(dim=1))


class IoUBoxLoss(WeightedBoxLoss):
    """A loss on decoded boxes, by how they overlap the ground truth. A subclass says ``of_boxes``."""

    def of_boxes(self, boxes: Tensor, gt_boxes: Tensor) -> Tensor:
        """``(N,)``: the loss of each of ``boxes`` (N, 4), xyxy, which should be ``gt_boxes`` (N, 4)."""
        raise NotImplementedError

    def forward(self, box_coder: BoxCoder, deltas: Tensor, reference: Tensor, gt_boxes: Tensor) -> Tensor:
        """See ``BoxLoss.forward``."""
        return self.weight * self.of_boxes(box_coder.decode(reference, deltas), gt_boxes)


@BOX_LOSSES.register()
class GIoUBoxLoss(IoUBoxLoss):
    """1 - GIoU: a box that misses the object is drawn towards it, too (Rezatofighi et al. 2019)."""

    def of_boxes(self, boxes: Tensor, gt_boxes: Tensor) -> Tensor:
        """See ``IoUBoxLoss.of_boxes``."""
        return generalized_box_iou_loss(boxes, gt_boxes)


@BOX_LOSSES.register()
class DIoUBoxLoss(IoUBoxLoss):
    """1 - IoU, and the squared distance of the centres by that of the corners around both (Zheng et al. 2020)."""

    def of_boxes(self, boxes: Tensor, gt_boxes: Tensor) -> Tensor:
        """See ``IoUBoxLoss.of_boxes``."""
        return distance_box_iou_loss(boxes, gt_boxes)


@BOX_LOSSES.register()
class CIoUBoxLoss(DIoUBoxLoss):
    """``DIoUBoxLoss``, and how far the ratios of width to height are apart (Zheng et al. 2020).

    A box without area has no ratio, and gets the DIoU loss.
    """

    def of_boxes(self, boxes: Tensor, gt_boxes: Tensor) -> Tensor:
        """See ``IoUBoxLoss.of_boxes``."""
        sizes, gt_sizes = (corners[:, 2:] - corners[:, :2] for corners in (boxes, gt_boxes))
        has_ratio = ((sizes > 0) & (gt_sizes > 0)).all(dim=1)
        angles, gt_angles = (
            torch.atan(part[:, 0] / part[:, 1])
            for part in (x.where(has_ratio[:, None], 1.0) for x in (sizes, gt_sizes))
        )
        apart = (4 / math.pi**2) * (gt_angles - angles).square()
        with torch.no_grad():  # the weight is no part of what is to become less
            overlap = (torch.minimum(boxes, gt_boxes)[:, 2:] - torch.maximum(boxes, gt_boxes)[:, :2]).clamp(min=0)
            overlap = overlap.prod(dim=1)
            iou = overlap / (sizes.prod(dim=1) + gt_sizes.prod(dim=1) - overlap + 1e-7)
            weight = apart / (1 - iou + apart + 1e-7)
        return super().of_boxes(boxes, gt_boxes) + weight * apart


def foreground_box_loss(
    loss: BoxLoss,
    box_coder: BoxCoder,
    deltas: Tensor,
    reference: Tensor,
    gt_boxes: Tensor,
    foreground: Tensor,
    num_samples: Tensor,
) -> tuple[Tensor, Tensor]:
    """The loss of the foreground among N boxes; the others count nothing, whatever their rows hold.

    Args:
        loss: of a box.
        box_coder: turns deltas into boxes and back.
        deltas, reference, gt_boxes: ``(N, 4)`` each, see ``BoxLoss.forward``.
        foreground: ``(N,)`` bool.
        num_samples: 0-d, how many anchors or proposals were sampled, background included.

    Returns:
        The loss, 0-d, and what it was divided by where that is not 0, 0-d.
    """
    losses = foreground_losses(loss, box_coder, deltas, reference, gt_boxes, foreground)
    normaliser = loss.normaliser(foreground.sum(), num_samples).float()
    return losses.sum() / normaliser.clamp(min=1), normaliser


def foreground_losses(
    loss: BoxLoss, box_coder: BoxCoder, deltas: Tensor, reference: Tensor, gt_boxes: Tensor, foreground: Tensor
) -> Tensor:
    """``(N,)`` losses of N boxes, 0 for those that are no foreground; the arguments are ``foreground_box_loss``'s."""
    rows = foreground[:, None]
    reference, gt_boxes = (only_foreground(boxes, foreground) for boxes in (reference, gt_boxes))
    losses = loss(box_coder, deltas.masked_fill(~rows, 0.0), reference, gt_boxes)
    if losses.shape != foreground.shape:  # which would be broadcast
        shapes = f"{tuple(foreground.shape)}, got {tuple(losses.shape)}"
        raise broken_contract(loss, f"expected the loss of each of {len(deltas)} boxes, of shape {shapes}")
    return losses.masked_fill(~foreground, 0.0)


def only_foreground(boxes: Tensor, foreground: Tensor) -> Tensor:
    """``(N, 4)`` boxes, with some box of a size where ``foreground`` (N,) is false: no row may become NaN."""
    other = torch.arange(4, device=boxes.device).ge(2) * 100.0
    return torch.where(foreground[:, None], torch.as_tensor(boxes), other)
