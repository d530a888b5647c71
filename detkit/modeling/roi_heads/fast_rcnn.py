"""What box heads share: class scores and box deltas, their losses, and from them detections."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.layers import nms_by_group
from detkit.modeling.box_coder import BoxCoder
from detkit.modeling.box_losses import foreground_box_loss
from detkit.modeling.interfaces import BoxHead, BoxLoss, Features
from detkit.modeling.sampling import is_foreground
from detkit.structures import Boxes, ClassRows, Instances, Losses


@dataclasses.dataclass(frozen=True)
class DetectionRules:
    """How scored boxes become detections, beyond thresholds.

    Args:
        one_class_per_region: a proposal can only become an object of its likeliest class, and none where that is the
            background; else every class above the threshold gives a detection.
        round_boxes: boxes are rounded to whole pixels before NMS, halves to even.
        min_size: boxes with a side not longer than this many pixels are dropped before NMS; null keeps them.
    """

    one_class_per_region: bool = False
    round_boxes: bool = False
    min_size: float | None = None


class FastRCNNHead(BoxHead):
    """A box head but for its features (Fast R-CNN, Girshick 2015).

    A subclass says ``region_features``, calls ``init_predictor`` in its constructor, and sets the attributes below.

    The classification loss is a mean over all samples. A class that the dataset of an image does not label takes no
    part in the loss of its samples: it counts as impossible there, and gets no gradient.
    """

    takes_fillers = True
    num_classes: int
    class_agnostic: bool
    cls_score: nn.Linear
    bbox_pred: nn.Linear
    class_rows: dict[str, ClassRows]
    box_coder: BoxCoder
    box_loss: BoxLoss
    score_thresh: float
    nms_thresh: float
    max_detections: int
    detection: DetectionRules

    def init_predictor(self, width: int, num_classes: int, class_agnostic: bool) -> None:
        """Makes the last layers.

        Args:
            width: of the features.
            num_classes: K.
            class_agnostic: one box for all classes instead of one a class.
        """
        self.num_classes, self.class_agnostic = num_classes, class_agnostic
        self.cls_score = nn.Linear(width, num_classes + 1)
        self.bbox_pred = nn.Linear(width, 4 if class_agnostic else 4 * num_classes)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        self.class_rows = {f"cls_score.{kind}": ClassRows(per_class=1, background=True) for kind in ("weight", "bias")}
        if not class_agnostic:
            self.class_rows |= {f"bbox_pred.{kind}": ClassRows(per_class=4) for kind in ("weight", "bias")}

    def region_features(self, features: Features, boxes: list[Boxes]) -> Tensor:
        """``(R, width)``: what the last layers look at."""
        raise NotImplementedError

    def forward(self, features: Features, boxes: list[Boxes]) -> tuple[Tensor, Tensor]:
        """Class logits ``(R, K + 1)``, background last, and deltas ``(R, 4)`` or ``(R, 4K)``."""
        x = self.region_features(features, boxes)
        return self.cls_score(x), self.bbox_pred(x)

    def loss(self, features: Features, proposals: list[Instances]) -> Losses:
        """See ``BoxHead.loss``. Terms ``loss_cls`` and ``loss_box_reg``."""
        logits, deltas = self(features, [p.boxes for p in proposals])
        classes = torch.cat([p.classes for p in proposals])
        counted = classes >= 0
        foreground = is_foreground(classes, self.num_classes)
        deltas = deltas.unflatten(1, (-1, 4))
        column = torch.zeros_like(classes) if self.class_agnostic else classes.clamp(0, self.num_classes - 1)
        count = counted.sum().float()
        loss_box, box_count = foreground_box_loss(
            self.box_loss,
            self.box_coder,
            deltas.gather(1, column[:, None, None].expand(-1, 1, 4)).squeeze(1),
            Boxes.cat([p.boxes for p in proposals]).tensor,
            Boxes.cat([p.gt_boxes for p in proposals]).tensor,
            foreground,
            count,
        )
        # A mean over nothing is not a number, and one empty batch must not end the training.
        errors = F.cross_entropy(self._of_active(logits.float(), proposals), classes, reduction="sum", ignore_index=-1)
        return Losses(
            {"loss_cls": errors / count.clamp(min=1), "loss_box_reg": loss_box},
            self._accuracy(logits, classes),
            {"loss_cls": count, "loss_box_reg": box_count},
        )

    def _of_active(self, logits: Tensor, proposals: Sequence[Instances]) -> Tensor:
        """The logits, minus infinity for classes that the image's dataset does not label."""
        if all(p.info.active_classes is None for p in proposals):
            return logits
        every = logits.new_ones(self.num_classes + 1, dtype=torch.bool)
        rows = [
            every if p.info.active_classes is None else torch.cat([p.info.active_classes.to(every.device), every[:1]])
            for p in proposals
        ]
        active = torch.cat([row.expand(len(p), -1) for row, p in zip(rows, proposals)])
        return logits.masked_fill(~active, -torch.inf)

    @torch.no_grad()
    def _accuracy(self, logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
        right, counted = (logits.argmax(dim=1) == classes).float(), classes >= 0
        foreground = is_foreground(classes, self.num_classes).float()
        return {
            "box_head/accuracy": right.sum() / counted.sum().clamp(min=1),
            "box_head/foreground_accuracy": (right * foreground).sum() / foreground.sum().clamp(min=1),
        }

    def predict(self, features: Features, instances: list[Instances]) -> list[Instances]:
        """See ``BoxHead.predict``."""
        logits, deltas = self(features, [p.boxes for p in instances])
        counts = [len(p) for p in instances]
        probs = logits.float().softmax(dim=1).split(counts)
        boxes = self.box_coder.decode(Boxes.cat([p.boxes for p in instances]), deltas).split(counts)
        return [self._detect(b, s, p) for b, s, p in zip(boxes, probs, instances)]

    def _detect(self, boxes: Tensor, probs: Tensor, proposals: Instances) -> Instances:
        """Thresholds, suppresses by class and keeps the best of one image: boxes (R, 4B), probs (R, K + 1)."""
        candidate = torch.isfinite(boxes).all(dim=1) & torch.isfinite(probs).all(dim=1)
        wanted = (probs[:, :-1] > self.score_thresh) & candidate[:, None]
        if self.detection.one_class_per_region:
            wanted &= F.one_hot(probs.argmax(dim=1), self.num_classes + 1)[:, :-1].bool()
        rows, classes = torch.nonzero(wanted, as_tuple=True)
        boxes = boxes.unflatten(1, (-1, 4))
        chosen = Boxes(boxes[rows, 0 if self.class_agnostic else classes]).clip_to(proposals.valid_region)
        if self.detection.round_boxes:
            chosen = Boxes(chosen.tensor.round())
        scores = probs[rows, classes]
        if self.detection.min_size is not None:
            large = torch.nonzero(chosen.nonempty(self.detection.min_size)).squeeze(1)
            chosen, scores, classes = chosen[large], scores[large], classes[large]
        keep = nms_by_group(chosen, scores, classes, self.nms_thresh)[: self.max_detections]
        return Instances(
            proposals.image_size, info=proposals.info, boxes=chosen[keep], scores=scores[keep], classes=classes[keep]
        )
