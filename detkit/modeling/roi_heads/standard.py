"""The RoI heads of Faster and Mask R-CNN."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detkit.config import Recipe
from detkit.layers import ShapeSpec
from detkit.modeling.interfaces import ROI_HEADS, BoxHead, Features, KeypointHead, MaskHead, RoIHeads
from detkit.modeling.matcher import Matcher
from detkit.modeling.proposals.rpn import choose_features
from detkit.modeling.sampling import sample_balanced
from detkit.structures import Boxes, Instances, Losses


@ROI_HEADS.register()
class StandardRoIHeads(RoIHeads):
    """Samples proposals, then asks each head that is there (Mask R-CNN, He et al. 2017).

    The box head learns from all samples, the others from the foreground; at prediction the others work on the
    detections of the box head.

    Args:
        box_head: classes and refined boxes.
        mask_head: masks; null for Faster R-CNN.
        keypoint_head: keypoints; null for none.
        in_features: the features that the heads pool from; null for all.
        matcher: proposals to ground truth.
        batch_size_per_image: sampled proposals an image.
        positive_fraction: the largest share of foreground among them.
        fill_background: background fills what foreground leaves; false: background is only drawn in that proportion to
            the foreground that was found, so an image without any gives no sample (matterport).
        append_ground_truth: ground-truth boxes join the proposals in training.

    Raises:
        ValueError: an unknown feature, or a share that is not above 0 and at most 1.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        *,
        box_head: Recipe[BoxHead],
        mask_head: Recipe[MaskHead] | None = None,
        keypoint_head: Recipe[KeypointHead] | None = None,
        in_features: tuple[str, ...] | None = None,
        matcher: Matcher = Matcher(0.5, 0.5),
        batch_size_per_image: int = 512,
        positive_fraction: float = 0.25,
        fill_background: bool = True,
        append_ground_truth: bool = True,
    ):
        super().__init__(input_shape, num_classes)
        if not 0 < positive_fraction <= 1:
            raise ValueError(f"roi_heads.positive_fraction: expected above 0 and at most 1, got {positive_fraction}")
        self.num_classes = num_classes
        shapes = choose_features(input_shape, in_features, "roi_heads.in_features")
        self.box_head = box_head(shapes, num_classes)
        self.mask_head = None if mask_head is None else mask_head(shapes, num_classes)
        self.keypoint_head = None if keypoint_head is None else keypoint_head(shapes, num_classes)
        self.matcher = matcher
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.fill_background, self.append_ground_truth = fill_background, append_ground_truth

    @property
    def instance_heads(self) -> list[MaskHead | KeypointHead]:
        """The heads that work on foreground in training and on detections in prediction."""
        return [head for head in (self.mask_head, self.keypoint_head) if head is not None]

    def loss(self, features: Features, proposals: list[Instances], targets: list[Instances]) -> Losses:
        """See ``RoIHeads.loss``."""
        sampled = self.sample(proposals, targets)
        losses = self.box_head.loss(features, sampled)
        if self.instance_heads:
            foreground = self.foreground(sampled, targets)
            for head in self.instance_heads:
                losses = losses | head.loss(features, foreground)
        return losses | Losses(metrics=self.counts(sampled))

    def predict(self, features: Features, proposals: list[Instances]) -> list[Instances]:
        """See ``RoIHeads.predict``."""
        instances = self.box_head.predict(features, proposals)
        for head in self.instance_heads:
            instances = head.predict(features, instances)
        return instances

    @torch.no_grad()
    def sample(self, proposals: Sequence[Instances], targets: Sequence[Instances]) -> list[Instances]:
        """Labels the proposals of each image and draws a balanced sample of them.

        Returns:
            An image: ``Instances`` with ``boxes``, ``classes`` (``num_classes`` is background), ``gt_index`` (the row
            of the target that each was matched to) and ``gt_boxes``, foreground first. Without ground truth
            ``gt_boxes`` are zeros.
        """
        candidates = [p.boxes for p in proposals]
        if self.append_ground_truth:
            candidates = [Boxes.cat([boxes, t.boxes]) for boxes, t in zip(candidates, targets)]
        matched = [self._label(boxes, target) for boxes, target in zip(candidates, targets)]
        drawn = sample_balanced(
            [classes for _, classes in matched],
            self.batch_size_per_image,
            self.positive_fraction,
            background=self.num_classes,
            fill=self.fill_background,
        )
        sampled = []
        for target, boxes, (matches, classes), (positive, negative) in zip(targets, candidates, matched, drawn):
            rows = torch.cat([positive, negative])
            index = matches[rows]
            gt_boxes = target.boxes[index] if len(target) else Boxes(boxes.new_zeros((len(rows), 4)))
            fields = {"boxes": boxes[rows], "classes": classes[rows], "gt_index": index, "gt_boxes": gt_boxes}
            sampled.append(Instances(target.image_size, info=target.info, **fields))
        return sampled

    def _label(self, boxes: Boxes, target: Instances) -> tuple[Tensor, Tensor]:
        """``(R,)`` matched rows of the target, and classes: ``num_classes`` is background, -1 is ignored."""
        matches, labels = self.matcher.match(boxes, target)
        classes = torch.full_like(matches, self.num_classes)
        if len(target):
            classes = torch.where(labels == 1, target.classes[matches], classes)
        return matches, classes.masked_fill(labels == -1, -1)

    def foreground(self, sampled: Sequence[Instances], targets: Sequence[Instances]) -> list[Instances]:
        """The foreground of each image's sample, with all fields of its ground truth: masks are copied for these alone.

        Args:
            sampled: of ``sample``, so foreground comes first.
            targets: what it was matched to.
        """
        numbers = torch.stack([(s.classes < self.num_classes).sum() for s in sampled]).tolist()
        chosen = []
        for target, of_image in zip(targets, (s[:number] for s, number in zip(sampled, numbers))):
            rest = {k: v[of_image.gt_index] for k, v in target.fields.items() if k not in ("boxes", "classes")}
            chosen.append(of_image.with_fields(**{f"gt_{k}": v for k, v in rest.items()}))
        return chosen

    def counts(self, sampled: list[Instances]) -> dict[str, Tensor]:
        """Metrics: foreground and background an image."""
        foreground = torch.stack([(s.classes < self.num_classes).sum() for s in sampled]).float().mean()
        every = foreground.new_full((), sum(len(s) for s in sampled) / len(sampled))
        return {"roi_heads/num_foreground": foreground, "roi_heads/num_background": every - foreground}
