"""Box regression losses."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from detkit.config import NonNegative
from detkit.modeling.interfaces import BOX_LOSSES, BoxCoder, BoxLoss


@BOX_LOSSES.register()
class SmoothL1BoxLoss(BoxLoss):
    """Smooth L1 on the deltas (Fast R-CNN, Girshick 2015, equation 3).

    Args:
        beta: where the loss turns from quadratic to linear; 0 is L1.
        weight: factor on the loss.
        mean_over: samples divides the sum over the foreground by the number of all samples, background included, so
            that every sample weighs the same (Fast R-CNN); foreground by its own number of deltas (matterport).
    """

    def __init__(
        self,
        *,
        beta: NonNegative = 0.0,
        weight: NonNegative = 1.0,
        mean_over: Literal["samples", "foreground"] = "samples",
    ):
        super().__init__()
        self.beta, self.weight, self.mean_over = beta, weight, mean_over

    def forward(self, box_coder: BoxCoder, deltas: Tensor, reference: Tensor, gt_boxes: Tensor) -> Tensor:
        """See ``BoxLoss.forward``."""
        target = box_coder.encode(reference, gt_boxes)
        losses = F.smooth_l1_loss(deltas.float(), target, beta=self.beta, reduction="none")
        return self.weight * (losses.sum(dim=1) if self.mean_over == "samples" else losses.mean(dim=1))

    def normaliser(self, num_foreground: Tensor, num_samples: Tensor) -> Tensor:
        """See ``BoxLoss.normaliser``."""
        return num_samples if self.mean_over == "samples" else num_foreground


@BOX_LOSSES.register()
class GIoUBoxLoss(BoxLoss):
    """1 - GIoU of the decoded boxes (Rezatofighi et al. 2019).

    Args:
        weight: factor on the loss.
        mean_over: samples divides the sum over the foreground by the number of all samples, background included;
            foreground by the number of foreground boxes.
    """

    def __init__(self, *, weight: NonNegative = 1.0, mean_over: Literal["samples", "foreground"] = "samples"):
        super().__init__()
        self.weight, self.mean_over = weight, mean_over

    def forward(self, box_coder: BoxCoder, deltas: Tensor, reference: Tensor, gt_boxes: Tensor) -> Tensor:
        """See ``BoxLoss.forward``."""
        return self.weight * generalized_box_iou_loss(box_coder.decode(reference, deltas), gt_boxes)

    def normaliser(self, num_foreground: Tensor, num_samples: Tensor) -> Tensor:
        """See ``BoxLoss.normaliser``."""
        return num_samples if self.mean_over == "samples" else num_foreground


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
    rows = foreground[:, None]
    other = torch.arange(4, device=deltas.device).ge(2) * 100.0  # a box with a size: no row may become NaN
    reference, gt_boxes = (torch.where(rows, torch.as_tensor(boxes), other) for boxes in (reference, gt_boxes))
    losses = loss(box_coder, deltas.masked_fill(~rows, 0.0), reference, gt_boxes)
    normaliser = loss.normaliser(foreground.sum(), num_samples).float()
    return losses.masked_fill(~foreground, 0.0).sum() / normaliser.clamp(min=1), normaliser
