"""Box regression losses."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from detkit.modeling.box_coder import BoxCoder
from detkit.modeling.interfaces import BOX_LOSSES, BoxLoss


@BOX_LOSSES.register()
class SmoothL1BoxLoss(BoxLoss):
    """Smooth L1 on the deltas (Fast R-CNN, Girshick 2015, equation 3).

    Args:
        beta: where the loss turns from quadratic to linear; 0 is plain L1.
        weight: factor on the loss.
        mean_over: samples divides the sum over the foreground by the number of all samples, background included, so
            that every sample weighs the same (Fast R-CNN); foreground by its own number of deltas (matterport).
    """

    def __init__(
        self, *, beta: float = 0.0, weight: float = 1.0, mean_over: Literal["samples", "foreground"] = "samples"
    ):
        super().__init__()
        self.beta, self.weight, self.mean_over = beta, weight, mean_over

    def forward(
        self, box_coder: BoxCoder, deltas: Tensor, reference: Tensor, gt_boxes: Tensor, num_samples: int
    ) -> Tensor:
        """See ``BoxLoss.forward``."""
        target = box_coder.encode(reference, gt_boxes)
        total = F.smooth_l1_loss(deltas.float(), target, beta=self.beta, reduction="sum")
        return self.weight * total / (num_samples if self.mean_over == "samples" else max(deltas.numel(), 1))

    def count(self, num_foreground: int, num_samples: int) -> int:
        """See ``BoxLoss.count``."""
        return num_samples if self.mean_over == "samples" else num_foreground


@BOX_LOSSES.register()
class GIoUBoxLoss(BoxLoss):
    """1 - GIoU of the decoded boxes (Rezatofighi et al. 2019).

    Args:
        weight: factor on the loss.
        mean_over: samples divides the sum over the foreground by the number of all samples, background included;
            foreground by the number of foreground boxes.
    """

    def __init__(self, *, weight: float = 1.0, mean_over: Literal["samples", "foreground"] = "samples"):
        super().__init__()
        self.weight, self.mean_over = weight, mean_over

    def forward(
        self, box_coder: BoxCoder, deltas: Tensor, reference: Tensor, gt_boxes: Tensor, num_samples: int
    ) -> Tensor:
        """See ``BoxLoss.forward``."""
        total = generalized_box_iou_loss(box_coder.decode(reference, deltas), gt_boxes, reduction="sum")
        return self.weight * total / (num_samples if self.mean_over == "samples" else max(len(deltas), 1))

    def count(self, num_foreground: int, num_samples: int) -> int:
        """See ``BoxLoss.count``."""
        return num_samples if self.mean_over == "samples" else num_foreground
