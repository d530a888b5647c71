"""The roles that work on boxes alone, whatever the detector. Import them from ``interfaces.py``: read it first."""

from torch import Tensor, nn

from detkit.registry import Registry


class BoxCoder:
    """Expresses boxes by four numbers relative to reference boxes (anchors or proposals)."""

    def encode(self, reference: Tensor, boxes: Tensor) -> Tensor:
        """``(N, 4)`` deltas that move ``reference`` (N, 4) onto ``boxes`` (N, 4), all xyxy."""
        raise NotImplementedError

    def decode(self, reference: Tensor, deltas: Tensor) -> Tensor:
        """``(N, 4 * B)`` float32 boxes: each ``reference`` (N, 4) moved by its B sets of ``deltas`` (N, 4 * B)."""
        raise NotImplementedError


class BoxLoss(nn.Module):
    """How far predicted boxes are from the ground truth."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, box_coder: BoxCoder, deltas: Tensor, reference: Tensor, gt_boxes: Tensor) -> Tensor:
        """``(N,)``: the loss of each of N boxes, which the caller adds up and divides by ``normaliser``. Predicted
        ``deltas`` (N, 4) move ``reference`` (N, 4), anchors or proposals, which should end at ``gt_boxes`` (N, 4)."""
        raise NotImplementedError

    def normaliser(self, num_foreground: Tensor, num_samples: Tensor) -> Tensor:
        """What the sum over the foreground is divided by where that is not 0, see ``Losses.normalisers``; 0-d each.
        ``num_samples`` anchors or proposals were sampled, background included."""
        return num_samples


class ClassLoss(nn.Module):
    """How a detector classifies boxes: what its class logits are, how they learn, and which scores they stand for.

    Attributes:
        num_logits: how many logits a box has, one a class and then others, such as the background's; for K classes.
    """

    num_logits: int

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """The loss of N boxes, added up: 0-d. A loss of several parts gives each by the end of its term's name.

        Of ``classes`` (N,), K is background, and -1 counts nothing. ``logits`` (N, ``num_logits``) float32.
        """
        raise NotImplementedError

    def normaliser(self, part: str, num_foreground: Tensor, num_samples: Tensor) -> Tensor:
        """What the sum of a part is divided by where that is not 0, see ``BoxLoss.normaliser``."""
        return num_samples

    def scores(self, logits: Tensor) -> Tensor:
        """``(N, K)`` in 0..1, or ``(N, K + 1)`` where the background has a score too: the last."""
        raise NotImplementedError


class Suppression:
    """Which of the scored boxes of an image are objects, and which are another box of an object that is there."""

    def __call__(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, iou_thresh: float, max_detections: int
    ) -> tuple[Tensor, Tensor]:
        """``rows`` (M,) of those that stay, best first, and their ``scores`` (M,), which may be lower than before.

        Boxes (N, 4) of two ``classes`` (N,) never suppress each other. ``iou_thresh`` is the head's ``nms_thresh``.
        The first ``max_detections`` will be the detections; of the others only the number counts.
        """
        raise NotImplementedError


BOX_CODERS: Registry[BoxCoder] = Registry("box coder", BoxCoder)
BOX_LOSSES: Registry[BoxLoss] = Registry("box loss", BoxLoss)
CLASS_LOSSES: Registry[ClassLoss] = Registry("class loss", ClassLoss)
SUPPRESSIONS: Registry[Suppression] = Registry("suppression", Suppression)
