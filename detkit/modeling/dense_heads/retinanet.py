"""Dense heads that classify and refine anchors. N images, A anchors over all levels, K classes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from detkit.config import Count, CountOrZero, Fraction, Interval, Recipe
from detkit.layers import Norm, ShapeSpec, choose_features, init_normal
from detkit.modeling.anchors import per_anchor, shared_by_levels
from detkit.modeling.box_coder import DeltaBoxCoder
from detkit.modeling.box_losses import SmoothL1BoxLoss, foreground_losses
from detkit.modeling.class_losses import FocalClassLoss
from detkit.modeling.contracts import anchors_on, divisors, named_sums, paired
from detkit.modeling.dense_heads.assigners import IoUAssigner
from detkit.modeling.dense_heads.level_convs import LevelConv
from detkit.modeling.dense_heads.normalisers import MovingNormaliser
from detkit.modeling.interfaces import (
    DENSE_HEADS,
    AnchorGenerator,
    Assigner,
    BoxCoder,
    BoxLoss,
    ClassLoss,
    DenseHead,
    Features,
    Normaliser,
    Suppression,
)
from detkit.modeling.matcher import matched_boxes, matched_classes
from detkit.modeling.sampling import is_foreground
from detkit.modeling.suppression import HardNMS, choose_detections
from detkit.structures import Boxes, ClassRows, ImageList, Instances, Losses

Levels = dict[str, list[Tensor]]
"""What a head says, by name: a tensor (N, A, values) a level."""


@DENSE_HEADS.register()
class RetinaNetHead(DenseHead):
    """Convolutions shared by all levels, then the class logits and the deltas of each anchor (Lin et al. 2017,
    arXiv:1708.02002). All anchors learn.

    Args:
        anchor_generator: the boxes that the deltas move.
        in_features: the maps to look at; null for all.
        num_conv: 3x3 convolutions before the class logits, and as many others before the deltas.
        norm: normalisation after each of them; null for none. GN suits maps of different levels. A batch norm has
            statistics of each level's own, and one scale and shift for all.
        conv_bias: whether they have a bias beside their norm; without a norm they always have.
        prior: the probability that the head begins with, of each class, or of any where they share it (softmax);
            small, as most anchors are background.
        assigner: which anchor learns which object.
        box_coder: how deltas are expressed.
        class_loss: the loss on the class logits, a sum over all anchors.
        box_loss: the loss on the deltas of anchors that learn an object; what it is a mean over, ``normaliser`` says.
        normaliser: what both sums are divided by.
        pre_nms_topk: candidates of each level before NMS, of all its anchors and classes.
        clip_boxes: whether candidates are cut to the image before NMS (torchvision); else detections are, after it.
        score_thresh: boxes up to this score are dropped.
        nms_thresh: IoU above which the lower-scoring of two boxes of a class is dropped.
        max_detections: detections an image.
        nms: how a box is chosen among those that may be of one object.

    Raises:
        ValueError: a feature that there is not; levels with different numbers of anchors or of channels.
    """

    terms: tuple[str, ...] = ("loss_cls", "loss_box_reg")
    """Names of the losses."""

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Called when a config is loaded. Raises ValueError for anchors that the assigner cannot label."""
        options["assigner"].cls.check_anchors(options["anchor_generator"])

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        *,
        anchor_generator: Recipe[AnchorGenerator],
        in_features: tuple[str, ...] | None = None,
        num_conv: CountOrZero = 4,
        norm: Recipe[Norm] | None = None,
        conv_bias: bool = True,
        prior: Annotated[float, Interval(0, 1, above=True, below=True)] = 0.01,
        assigner: Recipe[Assigner] = Recipe(IoUAssigner),
        box_coder: Recipe[BoxCoder] = Recipe(DeltaBoxCoder),
        class_loss: Recipe[ClassLoss] = Recipe(FocalClassLoss),
        box_loss: Recipe[BoxLoss] = Recipe(SmoothL1BoxLoss),
        normaliser: Recipe[Normaliser] = Recipe(MovingNormaliser),
        pre_nms_topk: Count = 1000,
        clip_boxes: bool = False,
        score_thresh: Fraction = 0.05,
        nms_thresh: Fraction = 0.5,
        max_detections: Count = 100,
        nms: Recipe[Suppression] = Recipe(HardNMS),
    ):
        super().__init__(input_shape, num_classes)
        shapes = choose_features(input_shape, in_features, "head.in_features")
        self.num_classes, self.in_features = num_classes, tuple(shapes)
        self.anchor_generator = anchor_generator([*shapes.values()])
        channels, self.num_anchors = shared_by_levels(self.anchor_generator, [*shapes.values()], "head")
        self.assigner, self.box_coder, self.box_loss = assigner(), box_coder(), box_loss()
        self.class_loss, self.normaliser, self.nms = class_loss(num_classes), normaliser(), nms()
        self.pre_nms_topk, self.clip_boxes = pre_nms_topk, clip_boxes
        self.score_thresh, self.nms_thresh, self.max_detections = score_thresh, nms_thresh, max_detections
        self.cls_convs, self.box_convs = (
            nn.Sequential(*(LevelConv(channels, len(shapes), norm=norm, bias=conv_bias) for _ in range(num_conv)))
            for _ in range(2)
        )
        logits = self.class_loss.num_logits
        self.cls_score = nn.Conv2d(channels, self.num_anchors * logits, 3, padding=1)
        self.bbox_pred = nn.Conv2d(channels, self.num_anchors * 4, 3, padding=1)
        for layer in (*self.cls_convs, *self.box_convs, self.cls_score, self.bbox_pred):
            init_normal(layer, 0.01)
        first = self.class_loss.initial_bias(prior).repeat(self.num_anchors)
        self.cls_score.bias = nn.Parameter(first)  # type: ignore[assignment]
        rows = ClassRows(background=logits - num_classes, repeats=self.num_anchors)
        self.class_rows = {f"cls_score.{kind}": rows for kind in ("weight", "bias")}

    def outputs(self, cls_maps: Tensor, box_maps: Tensor) -> dict[str, Tensor]:
        """What the last layers make of one level's maps of the two rows of convolutions, each ``(N, C, H, W)``."""
        return {"logits": self.cls_score(cls_maps), "deltas": self.bbox_pred(box_maps)}

    def forward(self, maps: Sequence[Tensor]) -> Levels:
        """What the head says of each anchor: ``logits`` and ``deltas``."""
        levels = [self.outputs(*of_level) for of_level in zip(self.cls_convs(maps), self.box_convs(maps))]
        return {name: [per_anchor(level[name], self.num_anchors) for level in levels] for name in levels[0]}

    def predictions(self, images: ImageList, features: Features) -> tuple[list[Boxes], Levels]:
        """The anchors of each level, and what the head says of them."""
        maps = [features[name] for name in self.in_features]
        return anchors_on(self.anchor_generator, maps, images.padded_size), self(maps)

    def loss(self, images: ImageList, features: Features, targets: list[Instances]) -> Losses:
        """See ``DenseHead.loss``."""
        anchors, levels = self.predictions(images, features)
        with torch.no_grad():
            number, words = sum(map(len, anchors)), "a row of the target and a label of each anchor"
            matched = [paired(self.assigner, self.assigner(anchors, target), words, number) for target in targets]
            pairs = [*zip(targets, matched)]
            classes = torch.stack([matched_classes(t, *match, self.num_classes) for t, match in pairs])
            gt_boxes = torch.cat([matched_boxes(t, rows).tensor for t, (rows, _) in pairs])
        foreground = is_foreground(classes, self.num_classes)
        joined = {name: torch.cat(values, dim=1).float() for name, values in levels.items()}
        reference = Boxes.cat(anchors).tensor.repeat(len(targets), 1)
        sums = {
            **self.class_sums(joined["logits"], classes, targets),
            **self.box_sums(joined, reference, gt_boxes, foreground),
        }
        num_foreground = foreground.sum(dim=1)
        by_image, normaliser = divisors(self.normaliser, num_foreground)
        return Losses(
            {name: (value / by_image).sum() for name, value in sums.items()},
            {"head/num_foreground": num_foreground.float().mean()},
            {} if normaliser is None else dict.fromkeys(sums, normaliser.detach()),
        )

    def class_sums(self, logits: Tensor, classes: Tensor, targets: Sequence[Instances]) -> dict[str, Tensor]:
        """Names of terms, and the sums ``(N,)`` of the class losses of each image.

        Args:
            logits: ``(N, A, num_logits)``. Those of classes that the image's dataset does not label learn nothing.
            classes: ``(N, A)``, K is background, -1 learns nothing.
            targets: of each image.
        """
        loss = self.class_loss.over(classes.flatten())
        parts = [
            named_sums(self.class_loss, loss(self.class_loss.only_active(own, target.info.active_classes), truth))
            for own, truth, target in zip(logits, classes, targets)
        ]
        return {f"{self.terms[0]}{part}": torch.stack([p[part] for p in parts]) for part in parts[0]}

    def box_sums(
        self, predictions: dict[str, Tensor], reference: Tensor, gt_boxes: Tensor, foreground: Tensor
    ) -> dict[str, Tensor]:
        """Names of terms, and the sums ``(N,)`` of the box losses of each image.

        Args:
            predictions: ``(N, A, values)``.
            reference: ``(N * A, 4)`` anchors.
            gt_boxes: ``(N * A, 4)`` where those of the foreground should end.
            foreground: ``(N, A)`` bool.
        """
        deltas = predictions["deltas"].flatten(0, 1)
        losses = foreground_losses(self.box_loss, self.box_coder, deltas, reference, gt_boxes, foreground.flatten())
        return {self.terms[1]: losses.unflatten(0, foreground.shape).sum(dim=1)}

    @torch.no_grad()
    def predict(self, images: ImageList, features: Features) -> list[Instances]:
        """See ``DenseHead.predict``."""
        anchors, levels = self.predictions(images, features)
        found = [self._candidates(i, images, anchors, levels) for i in range(len(images.image_sizes))]
        return [self.choose(candidates) for candidates in found]

    def choose(self, candidates: Instances) -> Instances:
        """See ``RegionPart.choose``."""
        return choose_detections(candidates, self.nms, self.nms_thresh, self.max_detections)

    def _candidates(self, image: int, images: ImageList, anchors: list[Boxes], levels: Levels) -> Instances:
        """The best boxes of each level of an image: ``boxes``, ``scores``, ``classes``."""
        found = []
        for level, own in enumerate(anchors):
            predictions = {name: values[level][image].float() for name, values in levels.items()}
            scores = self.scores(predictions).flatten()
            likely = torch.nonzero(scores > self.score_thresh)[:, 0]
            best, order = scores[likely].topk(min(self.pre_nms_topk, len(likely)))
            cells, classes = likely[order] // self.num_classes, likely[order] % self.num_classes
            boxes = self.box_coder.decode(own.tensor[cells], predictions["deltas"][cells])
            finite = torch.isfinite(boxes).all(dim=1)
            found.append((boxes[finite], best[finite], classes[finite]))
        corners, scores, classes = (torch.cat(parts) for parts in zip(*found))
        boxes = Boxes(corners).clip_to(images.valid_region(image)) if self.clip_boxes else Boxes(corners)
        size, info = images.image_sizes[image], images.info(image)
        return Instances(size, info=info, boxes=boxes, scores=scores, classes=classes)

    def scores(self, predictions: dict[str, Tensor]) -> Tensor:
        """``(A, K)`` scores in 0..1 of the anchors of a level, ``predictions`` (A, values)."""
        return self.class_loss.scores(predictions["logits"])[:, : self.num_classes]
