"""Box heads."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Recipe
from detkit.layers import ConvNorm, NormName, ShapeSpec, c2_xavier_fill, nms_by_group
from detkit.modeling.box_coder import BoxCoder
from detkit.modeling.box_losses import SmoothL1BoxLoss
from detkit.modeling.interfaces import BOX_HEADS, BoxHead, BoxLoss, Features, RoIPooler
from detkit.structures import Boxes, ClassRows, Instances, Losses


@BOX_HEADS.register()
class FastRCNNConvFCHead(BoxHead):
    """Convolutions and fully connected layers, then class scores and box deltas (Fast R-CNN, Girshick 2015).

    The classification loss is a mean over all samples; the box loss a sum over foreground divided by the number
    of all samples, so that every sample weighs the same however many are foreground.

    Args:
        pooler: features of a proposal.
        conv_dims: channels of the 3x3 convolutions before the fully connected layers.
        fc_dims: widths of the fully connected layers.
        norm: normalisation after each convolution.
        class_agnostic: one box for all classes instead of one a class.
        box_coder: how deltas are expressed.
        box_loss: the loss on the deltas of foreground proposals.
        score_thresh: detections below this score are dropped.
        nms_thresh: IoU above which the lower-scoring of two detections of a class is dropped.
        max_detections: detections an image.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        *,
        pooler: Recipe[RoIPooler],
        conv_dims: tuple[int, ...] = (),
        fc_dims: tuple[int, ...] = (1024, 1024),
        norm: NormName | None = None,
        class_agnostic: bool = False,
        box_coder: BoxCoder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)),
        box_loss: Recipe[BoxLoss] = Recipe(SmoothL1BoxLoss),
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        max_detections: int = 100,
    ):
        super().__init__(input_shape, num_classes)
        self.num_classes, self.class_agnostic = num_classes, class_agnostic
        self.pooler = pooler(input_shape)
        shape = self.pooler.output_shape
        channels = shape.channels
        self.convs = nn.Sequential()
        for i, dim in enumerate(conv_dims):
            conv = ConvNorm(channels, dim, 3, padding=1, norm=norm, activation=nn.ReLU(inplace=True))
            self.convs.add_module(str(i), conv)
            channels = dim
        width = channels * (shape.height or 1) * (shape.width or 1)
        self.fcs = nn.ModuleList()
        for dim in fc_dims:
            layer = nn.Linear(width, dim)
            c2_xavier_fill(layer)
            self.fcs.append(layer)
            width = dim
        self.cls_score = nn.Linear(width, num_classes + 1)
        self.bbox_pred = nn.Linear(width, 4 if class_agnostic else 4 * num_classes)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        self.class_rows = {f"cls_score.{kind}": ClassRows(per_class=1, background=True) for kind in ("weight", "bias")}
        if not class_agnostic:
            self.class_rows |= {f"bbox_pred.{kind}": ClassRows(per_class=4) for kind in ("weight", "bias")}
        self.box_coder, self.box_loss = box_coder, box_loss()
        self.score_thresh, self.nms_thresh, self.max_detections = score_thresh, nms_thresh, max_detections

    def forward(self, features: Features, boxes: list[Boxes]) -> tuple[Tensor, Tensor]:
        """Class logits ``(R, K + 1)``, background last, and deltas ``(R, 4)`` or ``(R, 4K)``."""
        x = self.convs(self.pooler(features, boxes)).flatten(1)
        for layer in self.fcs:
            x = F.relu(layer(x), inplace=True)
        return self.cls_score(x), self.bbox_pred(x)

    def loss(self, features: Features, proposals: list[Instances]) -> Losses:
        """See ``BoxHead.loss``. Terms ``loss_cls`` and ``loss_box_reg``."""
        logits, deltas = self(features, [p.boxes for p in proposals])
        classes = torch.cat([p.classes for p in proposals])
        positive = torch.nonzero(classes < self.num_classes).squeeze(1)
        deltas = deltas.unflatten(1, (-1, 4))
        chosen = deltas[positive, 0 if self.class_agnostic else classes[positive]]
        reference = Boxes.cat([p.boxes for p in proposals]).tensor[positive]
        gt_boxes = Boxes.cat([p.gt_boxes for p in proposals]).tensor[positive]
        count = max(len(classes), 1)
        # A mean over nothing is not a number, and one empty batch must not end the training.
        loss_cls = F.cross_entropy(logits.float(), classes, reduction="sum") / count
        loss_box = self.box_loss(self.box_coder, chosen, reference, gt_boxes) / count
        return Losses({"loss_cls": loss_cls, "loss_box_reg": loss_box}, self._accuracy(logits, classes))

    @torch.no_grad()
    def _accuracy(self, logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
        right = (logits.argmax(dim=1) == classes).float()
        foreground = (classes < self.num_classes).float()
        return {
            "box_head/accuracy": right.sum() / max(len(classes), 1),
            "box_head/foreground_accuracy": (right * foreground).sum() / foreground.sum().clamp(min=1),
        }

    def predict(self, features: Features, instances: list[Instances]) -> list[Instances]:
        """See ``BoxHead.predict``."""
        logits, deltas = self(features, [p.boxes for p in instances])
        counts = [len(p) for p in instances]
        probs = logits.float().softmax(dim=1).split(counts)
        boxes = self.box_coder.decode(Boxes.cat([p.boxes for p in instances]), deltas).split(counts)
        return [self._detect(b, s, p.image_size) for b, s, p in zip(boxes, probs, instances)]

    def _detect(self, boxes: Tensor, probs: Tensor, image_size: tuple[int, int]) -> Instances:
        """Thresholds, suppresses by class and keeps the best of one image: boxes (R, 4B), probs (R, K + 1)."""
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(probs).all(dim=1)
        scores = probs[:, :-1] * finite[:, None]
        rows, classes = torch.nonzero(scores > self.score_thresh, as_tuple=True)
        boxes = boxes.unflatten(1, (-1, 4))
        chosen = Boxes(boxes[rows, 0 if self.class_agnostic else classes]).clip(image_size)
        scores = scores[rows, classes]
        keep = nms_by_group(chosen, scores, classes, self.nms_thresh)[: self.max_detections]
        return Instances(image_size, boxes=chosen[keep], scores=scores[keep], classes=classes[keep])
