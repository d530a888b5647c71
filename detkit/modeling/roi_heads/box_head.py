"""Box heads: class scores and box deltas, their losses, and from them boxes and detections."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Count, Fraction, NonNegative, Positive, Recipe
from detkit.layers import Norm, ShapeSpec, c2_xavier_fill, conv_stack, init_normal
from detkit.modeling.box_coder import DeltaBoxCoder
from detkit.modeling.box_losses import SmoothL1BoxLoss, foreground_box_loss
from detkit.modeling.class_losses import SoftmaxClassLoss
from detkit.modeling.contracts import named_sums
from detkit.modeling.interfaces import (
    BOX_HEADS,
    BoxCoder,
    BoxHead,
    BoxLoss,
    ClassLoss,
    Features,
    RoIPooler,
    Suppression,
)
from detkit.modeling.sampling import is_foreground
from detkit.modeling.suppression import HardNMS, choose_detections
from detkit.registry import Removed
from detkit.structures import Boxes, ClassRows, Instances, Losses

PROPOSAL_CODER: Recipe[BoxCoder] = Recipe(DeltaBoxCoder, {"weights": (10.0, 10.0, 5.0, 5.0)})
"""How deltas to proposals are expressed by default (Fast R-CNN)."""


@dataclasses.dataclass(frozen=True)
class Detection:
    """How scored boxes become detections.

    Args:
        score_thresh: boxes up to this score are dropped.
        nms_thresh: IoU above which the lower-scoring of two boxes of a class is dropped.
        max_detections: detections an image.
        min_size: boxes with a side not longer than this many pixels are dropped; null keeps them.
        nms: how a box is chosen among those that may be of one object.
    """

    score_thresh: Fraction = 0.05
    nms_thresh: Fraction = 0.5
    max_detections: Count = 100
    min_size: NonNegative | None = None
    nms: Recipe[Suppression] = Recipe(HardNMS)

    def choose(self, candidates: Instances) -> Instances:
        """The detections among the candidates of an image."""
        return choose_detections(candidates, self.nms(), self.nms_thresh, self.max_detections)


@dataclasses.dataclass(frozen=True)
class BoxInit:
    """Standard deviations that the weights of a box head's last layers begin with; biases begin at 0.

    The defaults are Detectron2's. null: 1 / sqrt(inputs), about what torchvision has.

    Args:
        cls_score: of the class scores.
        bbox_pred: of the box deltas.
    """

    cls_score: Positive | None = 0.01
    bbox_pred: Positive | None = 0.001


class BoxPredictions(NamedTuple):
    """What a ``FastRCNNHead`` says of R boxes: class logits, see ``ClassLoss``; deltas (R, 4 or 4K)."""

    logits: Tensor
    deltas: Tensor


class FastRCNNHead(BoxHead):
    """A box head but for its features (Fast R-CNN, Girshick 2015).

    A subclass says ``region_features`` and calls ``init_predictor`` in its constructor.

    A class that the dataset of an image does not label takes no part in the class loss of its samples: it counts as
    impossible there, and gets no gradient.

    Args:
        pooler: features of a proposal.
        norm: normalisation after each convolution. FrozenBN normalises nothing until weights are loaded: from scratch
            take BN or GN.
        box_coder: how deltas are expressed.
        box_loss: the loss on the deltas of foreground proposals.
        detection: how scored boxes become detections.
        init: how the last layers begin.
        class_loss: what the class logits are, and the loss on those of all samples.
    """

    renamed_options: ClassVar[Mapping[str, str | Removed]] = {
        **{option: f"detection.{option}" for option in ("score_thresh", "nms_thresh", "max_detections")},
        **{
            f"detection.{option}": Removed("it is what MatterportBoxHead does", default=False)
            for option in ("one_class_per_region", "round_boxes")
        },
    }

    def init_predictor(
        self,
        width: int,
        num_classes: int,
        class_agnostic: bool,
        box_coder: Recipe[BoxCoder],
        box_loss: Recipe[BoxLoss],
        detection: Detection,
        init: BoxInit = BoxInit(),
        class_loss: Recipe[ClassLoss] = Recipe(SoftmaxClassLoss),
    ) -> None:
        """Makes the last layers, on ``width`` features, and keeps the options that all such heads have."""
        self.num_classes, self.class_agnostic = num_classes, class_agnostic
        self.box_coder, self.box_loss, self.detection = box_coder(), box_loss(), detection
        self.class_loss = class_loss(num_classes)
        self.cls_score = nn.Linear(width, self.class_loss.num_logits)
        self.bbox_pred = nn.Linear(width, 4 if class_agnostic else 4 * num_classes)
        init_normal(self.cls_score, init.cls_score)
        init_normal(self.bbox_pred, init.bbox_pred)
        background = self.class_loss.num_logits - num_classes
        self.class_rows = {f"cls_score.{kind}": ClassRows(background=background) for kind in ("weight", "bias")}
        if not class_agnostic:
            self.class_rows |= {f"bbox_pred.{kind}": ClassRows(per_class=4) for kind in ("weight", "bias")}

    def region_features(self, features: Features, boxes: list[Boxes]) -> Tensor:
        """``(R, width)``: what the last layers look at."""
        raise NotImplementedError

    def forward(self, features: Features, boxes: list[Boxes]) -> BoxPredictions:
        """See ``predictions``."""
        x = self.region_features(features, boxes)
        return BoxPredictions(self.cls_score(x), self.bbox_pred(x))

    def predictions(self, features: Features, boxes: list[Boxes]) -> BoxPredictions:
        """See ``BoxHead.predictions``."""
        return self(features, boxes)

    def losses(self, predictions: BoxPredictions, proposals: list[Instances]) -> Losses:
        """See ``BoxHead.losses``. Terms ``loss_cls``, or several if the class loss has parts, and ``loss_box_reg``."""
        logits, deltas = predictions
        classes = torch.cat([p.classes for p in proposals])
        foreground, num_samples = is_foreground(classes, self.num_classes), (classes >= 0).sum().float()
        terms, normalisers = {}, {}
        sums = named_sums(self.class_loss, self.class_loss(self._of_active(logits.float(), proposals), classes))
        for part, loss in sums.items():
            number = normalisers[f"loss_cls{part}"] = self.class_loss.normaliser(
                part, foreground.sum().float(), num_samples
            )
            terms[f"loss_cls{part}"] = loss / number.clamp(min=1)  # no mean over nothing: one empty batch is no end
        terms["loss_box_reg"], normalisers["loss_box_reg"] = foreground_box_loss(
            self.box_loss,
            self.box_coder,
            self._of_class(deltas, classes),
            Boxes.cat([p.boxes for p in proposals]).tensor,
            Boxes.cat([p.gt_boxes for p in proposals]).tensor,
            foreground,
            num_samples,
        )
        return Losses(terms, self._accuracy(logits, classes), normalisers)

    def _of_class(self, deltas: Tensor, classes: Tensor) -> Tensor:
        """``(R, 4)`` deltas of each box's class; background has any."""
        rows = torch.zeros_like(classes) if self.class_agnostic else classes.clamp(0, self.num_classes - 1)
        return deltas.unflatten(1, (-1, 4)).gather(1, rows[:, None, None].expand(-1, 1, 4)).squeeze(1)

    def _of_active(self, logits: Tensor, proposals: Sequence[Instances]) -> Tensor:
        """The logits, very low for classes that the image's dataset does not label: probability 0."""
        if all(p.info.active_classes is None for p in proposals):
            return logits
        images = zip(logits.split([len(p) for p in proposals]), proposals)
        return torch.cat([self.class_loss.only_active(own, p.info.active_classes) for own, p in images])

    @torch.no_grad()
    def _accuracy(self, logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
        # Where there is nothing to classify, 0 / 0 says so: NaN.
        right = (self.class_loss.predicted(logits.float()) == classes).float()
        foreground = is_foreground(classes, self.num_classes).float()
        return {
            "box_head/accuracy": right.sum() / (classes >= 0).sum(),
            "box_head/foreground_accuracy": (right * foreground).sum() / foreground.sum(),
        }

    @torch.no_grad()
    def boxes(self, predictions: BoxPredictions, proposals: list[Instances], clip: bool = True) -> list[Boxes]:
        """See ``BoxHead.boxes``. Where there is a box a class, that of the proposal's class, and of the likeliest
        class for background and for proposals without ``classes``."""
        likeliest = self._likeliest(predictions)
        parts = likeliest.split([len(p) for p in proposals])
        given = torch.cat([p.classes if "classes" in p else rows for p, rows in zip(proposals, parts)])
        classes = torch.where(is_foreground(given, self.num_classes), given, likeliest)
        deltas = self._of_class(predictions.deltas, classes)
        refined = self.box_coder.decode(Boxes.cat([p.boxes for p in proposals]), deltas)
        found = [Boxes(rows) for rows in refined.split([len(p) for p in proposals])]
        return [boxes.clip_to(p.valid_region) for boxes, p in zip(found, proposals)] if clip else found

    def likeliest_boxes(self, predictions: BoxPredictions, boxes: Tensor) -> Tensor:
        """``(R, 4)`` the refined box of the likeliest class of each of ``boxes`` (R, 4)."""
        return self.box_coder.decode(boxes, self._of_class(predictions.deltas, self._likeliest(predictions)))

    def _likeliest(self, predictions: BoxPredictions) -> Tensor:
        return predictions.logits[:, : self.num_classes].argmax(dim=1)

    def scores(self, predictions: BoxPredictions) -> Tensor:
        """See ``BoxHead.scores``."""
        return self.class_loss.scores(predictions.logits.float())

    def detections(
        self, predictions: BoxPredictions, proposals: list[Instances], scores: Tensor | None = None
    ) -> list[Instances]:
        """See ``BoxHead.detections``."""
        numbers = [len(p) for p in proposals]
        probs = (self.scores(predictions) if scores is None else scores).split(numbers)
        boxes = self.box_coder.decode(Boxes.cat([p.boxes for p in proposals]), predictions.deltas).split(numbers)
        return [self.detection.choose(self.candidates(b, p, i)) for b, p, i in zip(boxes, probs, proposals)]

    def choose(self, candidates: Instances) -> Instances:
        """See ``RegionPart.choose``."""
        return self.detection.choose(candidates)

    def candidates(self, boxes: Tensor, probs: Tensor, proposals: Instances) -> Instances:
        """``Instances(boxes, scores, classes)`` of one image, among which NMS will choose.

        Args:
            boxes: ``(R, 4B)`` the refined boxes of each proposal, one or one a class.
            probs: ``(R, K)`` or ``(R, K + 1)`` scores, see ``ClassLoss.scores``.
            proposals: R of them.
        """
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(probs).all(dim=1)
        likely = probs[:, : self.num_classes] > self.detection.score_thresh
        rows, classes = torch.nonzero(likely & finite[:, None], as_tuple=True)
        chosen = boxes.unflatten(1, (-1, 4))[rows, 0 if self.class_agnostic else classes]
        found = Instances(
            proposals.image_size,
            info=proposals.info,
            boxes=Boxes(chosen).clip_to(proposals.valid_region),
            scores=probs[rows, classes],
            classes=classes,
        )
        return found if self.detection.min_size is None else found[found.boxes.nonempty(self.detection.min_size)]


@BOX_HEADS.register()
class FastRCNNConvFCHead(FastRCNNHead):
    """Convolutions and fully connected layers, then class scores and box deltas (Fast R-CNN, Girshick 2015).

    Args:
        conv_dims: channels of the 3x3 convolutions before the fully connected layers.
        average_pool: the mean over the region goes on, not every cell (He et al. 2015, the C4 head).
        fc_dims: widths of the fully connected layers.
        class_agnostic: one box for all classes instead of one a class.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        *,
        pooler: Recipe[RoIPooler],
        conv_dims: tuple[Count, ...] = (),
        average_pool: bool = False,
        fc_dims: tuple[Count, ...] = (1024, 1024),
        norm: Recipe[Norm] | None = None,
        class_agnostic: bool = False,
        box_coder: Recipe[BoxCoder] = PROPOSAL_CODER,
        box_loss: Recipe[BoxLoss] = Recipe(SmoothL1BoxLoss),
        detection: Detection = Detection(),
        init: BoxInit = BoxInit(),
        class_loss: Recipe[ClassLoss] = Recipe(SoftmaxClassLoss),
    ):
        super().__init__(input_shape, num_classes)
        self.pooler = pooler(input_shape)
        shape = self.pooler.output_shape
        channels = [shape.channels, *conv_dims]
        self.convs = conv_stack(channels, norm=norm)
        self.average_pool = average_pool
        width = channels[-1] * (1 if average_pool else (shape.height or 1) * (shape.width or 1))
        self.fcs = nn.ModuleList()
        for dim in fc_dims:
            layer = nn.Linear(width, dim)
            c2_xavier_fill(layer)
            self.fcs.append(layer)
            width = dim
        self.init_predictor(width, num_classes, class_agnostic, box_coder, box_loss, detection, init, class_loss)

    def region_features(self, features: Features, boxes: list[Boxes]) -> Tensor:
        """``(R, width)`` of the last fully connected layer."""
        x = self.convs(self.pooler(features, boxes))
        x = x.mean(dim=(2, 3)) if self.average_pool else x.flatten(1)
        for layer in self.fcs:
            x = F.relu(layer(x), inplace=True)
        return x
