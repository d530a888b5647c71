"""The roles that work on boxes alone, whatever the detector. Import them from ``interfaces.py``: read it first."""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Recipe
from detkit.layers import ShapeSpec
from detkit.registry import Registry, required
from detkit.structures import Boxes, Instances


class AnchorGenerator(nn.Module):
    """Feature map sizes to anchors. ``num_anchors`` gives A, one number a level."""

    num_anchors: list[int]

    def __init__(self, input_shape: list[ShapeSpec]):
        super().__init__()

    @required
    def forward(self, features: Sequence[Tensor], image_size: tuple[int, int]) -> list[Boxes]:
        """One ``Boxes`` a level, ``(H*W*A, 4)``, in the order y, x, anchor. Of ``features``, a map a level, only the
        sizes count; ``image_size`` ``(height, width)`` is that of the padded batch that they were made from."""
        raise NotImplementedError


class BoxCoder:
    """Expresses boxes by four numbers relative to reference boxes (anchors or proposals)."""

    @required
    def encode(self, reference: Tensor, boxes: Tensor) -> Tensor:
        """``(N, 4)`` deltas that move ``reference`` (N, 4) onto ``boxes`` (N, 4), all xyxy."""
        raise NotImplementedError

    @required
    def decode(self, reference: Tensor, deltas: Tensor) -> Tensor:
        """``(N, 4 * B)`` float32 boxes: each ``reference`` (N, 4) moved by its B sets of ``deltas`` (N, 4 * B)."""
        raise NotImplementedError


class BoxLoss(nn.Module):
    """How far predicted boxes are from the ground truth."""

    def __init__(self) -> None:
        super().__init__()

    @required
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

    @required
    def forward(self, logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """The loss of N boxes, added up: 0-d. A loss of several parts gives each by the end of its term's name.

        Of ``classes`` (N,), K is background, and -1 counts nothing. ``logits`` (N, ``num_logits``) float32.
        """
        raise NotImplementedError

    def over(self, classes: Tensor) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """``forward`` for parts of a batch, all of whose boxes have ``classes`` (N,): what is drawn or counted once a
        batch happens here, and not in each part."""
        return self

    def initial_bias(self, prior: float) -> Tensor:
        """``(num_logits,)`` that the logits of a one-stage detector begin at, nearly all of whose anchors are
        background: each class has the probability ``prior``, or any class where they share it."""
        return torch.full((self.num_logits,), math.log(prior / (1 - prior)))

    def normaliser(self, part: str, num_foreground: Tensor, num_samples: Tensor) -> Tensor:
        """What the sum of a part is divided by where that is not 0, see ``BoxLoss.normaliser``."""
        return num_samples

    def only_active(self, logits: Tensor, active: Tensor | None) -> Tensor:
        """``logits`` (N, ``num_logits``), very low (probability 0) for the classes that the image's dataset does not
        label: those that are false in ``active`` (K,). None: it labels all."""
        if active is None:
            return logits
        rows = F.pad(active.to(logits.device), (0, self.num_logits - self.num_classes), value=True)
        return logits.masked_fill(~rows, -1e4)  # finite: infinity times 0 is not a number

    @required
    def scores(self, logits: Tensor) -> Tensor:
        """``(N, K)`` in 0..1, or ``(N, K + 1)`` where the background has a score too: the last."""
        raise NotImplementedError

    def predicted(self, logits: Tensor) -> Tensor:
        """``(N,)``: the class of the highest score, K for background: where that has no score, below one half."""
        scores = self.scores(logits)
        return F.pad(scores, (0, self.num_classes + 1 - scores.shape[1]), value=0.5).argmax(dim=1)

    def set_image_counts(self, counts: Tensor) -> None:
        """Called when a model is built for training data, for a loss that goes by how frequent its classes are:
        ``counts`` (K,) of the training images that have each class."""


class Assigner:
    """Says what each anchor of a one-stage detector learns: an object, background, or nothing.

    Attributes:
        crowd_option: its option that spares what lies on crowds, if any: it needs data that keep them, which is checked
            when a config is loaded, as for every part that has this attribute.
    """

    crowd_option: ClassVar[str | None] = None

    @classmethod
    def check_anchors(cls, generator: Recipe[AnchorGenerator]) -> None:
        """Called when a config is loaded. Raises ValueError for anchors that it cannot label; by default for none."""

    @required
    def __call__(self, anchors: Sequence[Boxes], target: Instances) -> tuple[Tensor, Tensor]:
        """``anchors``, one ``Boxes`` a level, finest first -> of all A of them, level by level: ``(A,)`` rows of the
        target (any row where there is no object), and ``(A,)`` int8 labels: 1 object, 0 background, -1 nothing."""
        raise NotImplementedError


class Normaliser(nn.Module):
    """What a one-stage detector's sums over all anchors are divided by."""

    def __init__(self) -> None:
        super().__init__()

    @required
    def forward(self, num_foreground: Tensor) -> tuple[Tensor, Tensor | None]:
        """``num_foreground`` (N,): anchors of each image that learn an object -> ``(N,)`` what the sum over each image
        is divided by before those of all images are added up; and the term's entry in ``Losses.normalisers``, 0-d:
        None where the term is a mean over images."""
        raise NotImplementedError


class Suppression:
    """Which of the scored boxes of an image are objects, and which are another box of an object that is there."""

    @required
    def __call__(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, iou_thresh: float, max_detections: int
    ) -> tuple[Tensor, Tensor]:
        """``rows`` (M,) of those that stay, best first, and their ``scores`` (M,), which may be lower than before.

        Boxes (N, 4) of two ``classes`` (N,) never suppress each other. ``iou_thresh`` is the head's ``nms_thresh``.
        The first ``max_detections`` will be the detections; of the others only the number counts.
        """
        raise NotImplementedError


ANCHOR_GENERATORS: Registry[AnchorGenerator] = Registry("anchor generator", AnchorGenerator)
ASSIGNERS: Registry[Assigner] = Registry("assigner", Assigner)
BOX_CODERS: Registry[BoxCoder] = Registry("box coder", BoxCoder)
BOX_LOSSES: Registry[BoxLoss] = Registry("box loss", BoxLoss)
CLASS_LOSSES: Registry[ClassLoss] = Registry("class loss", ClassLoss)
NORMALISERS: Registry[Normaliser] = Registry("normaliser", Normaliser)
SUPPRESSIONS: Registry[Suppression] = Registry("suppression", Suppression)
