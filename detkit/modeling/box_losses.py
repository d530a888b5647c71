"""Box regression losses."""

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
    """

    def __init__(self, *, beta: float = 0.0, weight: float = 1.0):
        super().__init__()
        self.beta, self.weight = beta, weight

    def forward(self, box_coder: BoxCoder, deltas: Tensor, reference: Tensor, gt_boxes: Tensor) -> Tensor:
        """The summed loss; see ``BoxLoss.forward``."""
        target = box_coder.encode(reference, gt_boxes)
        return self.weight * F.smooth_l1_loss(deltas.float(), target, beta=self.beta, reduction="sum")


@BOX_LOSSES.register()
class GIoUBoxLoss(BoxLoss):
    """1 - GIoU of the decoded boxes (Rezatofighi et al. 2019).

    Args:
        weight: factor on the loss.
    """

    def __init__(self, *, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def forward(self, box_coder: BoxCoder, deltas: Tensor, reference: Tensor, gt_boxes: Tensor) -> Tensor:
        """The summed loss; see ``BoxLoss.forward``."""
        return self.weight * generalized_box_iou_loss(box_coder.decode(reference, deltas), gt_boxes, reduction="sum")
