"""The RoI heads of Faster and Mask R-CNN."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detkit.config import Recipe
from detkit.layers import ShapeSpec, choose_features
from detkit.modeling.interfaces import ROI_HEADS, BoxHead, Features, InstanceHead, KeypointHead, MaskHead, RoIHeads
from detkit.modeling.matcher import Matcher
from detkit.modeling.sampling import Sampling, is_foreground
from detkit.registry import Removed
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
        sampling: which proposals are learned from.
        append_ground_truth: ground-truth boxes join the proposals in training.

    Raises:
        ValueError: an unknown feature.
    """

    renamed_options: ClassVar[Mapping[str, str | Removed]] = {
        "batch_size_per_image": "sampling.batch_size_per_image",
        "positive_fraction": "sampling.positive_fraction",
        "fill_background": Removed(subclass="MatterportRoIHeads", default=True),
    }

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
        sampling: Sampling = Sampling(512, 0.25),
        append_ground_truth: bool = True,
    ):
        super().__init__(input_shape, num_classes)
        self.num_classes = num_classes
        shapes = choose_features(input_shape, in_features, "roi_heads.in_features")
        self.box_head = box_head(shapes, num_classes)
        self.mask_head = None if mask_head is None else mask_head(shapes, num_classes)
        self.keypoint_head = None if keypoint_head is None else keypoint_head(shapes, num_classes)
        self.matcher, self.sampling, self.append_ground_truth = matcher, sampling, append_ground_truth

    @property
    def instance_heads(self) -> list[InstanceHead]:
        """The heads that work on foreground in training and on detections in prediction."""
        return [head for head in (self.mask_head, self.keypoint_head) if head is not None]

    def loss(self, features: Features, proposals: list[Instances], targets: list[Instances]) -> Losses:
        """See ``RoIHeads.loss``."""
        sampled = self.sample(self.label(proposals, targets))
        losses, regions = self.box_losses(features, sampled, targets)
        losses = losses | Losses(metrics=self.metrics(sampled))
        if self.instance_heads:
            foreground = self.foreground(regions, targets)
            for head in self.instance_heads:
                losses = losses | head.loss(features, foreground)
        return losses

    def predict(self, features: Features, proposals: list[Instances]) -> list[Instances]:
        """See ``RoIHeads.predict``."""
        return self.described(features, self.box_detections(features, proposals))

    def box_losses(
        self, features: Features, sampled: list[Instances], targets: list[Instances]
    ) -> tuple[Losses, list[Instances]]:
        """The losses of the boxes, and what the other heads learn from: ``sampled``, if not with other boxes."""
        return self.box_head.loss(features, sampled), sampled

    def box_detections(self, features: Features, proposals: list[Instances]) -> list[Instances]:
        """See ``RoIHeads.box_detections``."""
        return self.box_head.predict(features, proposals)

    def choose(self, candidates: Instances) -> Instances:
        """See ``RegionPart.choose``."""
        return self.box_head.choose(candidates)

    def described(self, features: Features, instances: list[Instances]) -> list[Instances]:
        """See ``RoIHeads.described``."""
        for head in self.instance_heads:
            instances = head.predict(features, instances)
        return instances

    @torch.no_grad()
    def label(self, proposals: Sequence[Instances], targets: Sequence[Instances]) -> list[Instances]:
        """Says of each image's proposals what they should be classified as: see ``Matcher.label``."""
        boxes = [p.boxes for p in proposals]
        if self.append_ground_truth:
            boxes = [Boxes.cat([b, target.boxes]) for b, target in zip(boxes, targets)]
        return [self.matcher.label(b, target, self.num_classes) for b, target in zip(boxes, targets)]

    @torch.no_grad()
    def sample(self, labelled: Sequence[Instances]) -> list[Instances]:
        """Draws a balanced sample of each image's labelled proposals: foreground first, then background."""
        if not labelled:
            return []
        classes = pad_sequence([image.classes for image in labelled], batch_first=True, padding_value=-1)
        index, valid = self.sampling(classes, background=self.num_classes)
        return [image[rows[:num]] for image, rows, num in zip(labelled, index, valid.sum(dim=1).tolist())]

    def foreground(self, sampled: Sequence[Instances], targets: Sequence[Instances]) -> list[Instances]:
        """The foreground of each image's sample, with the fields of its ground truth: ``gt_masks`` and so on.

        Args:
            sampled: of ``sample``, so foreground comes first.
            targets: what it was matched to.
        """
        chosen = []
        for image, target in zip(sampled, targets):
            image = image[: int(is_foreground(image.classes, self.num_classes).sum())]
            fields = {f"gt_{name}": field[image.gt_index] for name, field in target.fields.items()}
            chosen.append(image.with_fields(**fields))
        return chosen

    def metrics(self, sampled: Sequence[Instances]) -> dict[str, Tensor]:
        """Foreground and background an image."""
        classes = torch.cat([image.classes for image in sampled])
        foreground = is_foreground(classes, self.num_classes).sum().float() / len(sampled)
        return {
            "roi_heads/num_foreground": foreground,
            "roi_heads/num_background": (classes == self.num_classes).sum().float() / len(sampled),
        }


@ROI_HEADS.register()
class RefinedBoxRoIHeads(StandardRoIHeads):
    """``StandardRoIHeads`` whose mask and keypoint heads learn from boxes that are already refined, as at prediction.

    From the foreground of the sample, that is, as the box head has just moved it; such a box may reach beyond the image
    (Detectron2's ``TRAIN_ON_PRED_BOXES``, which its PointRend has).
    """

    def box_losses(
        self, features: Features, sampled: list[Instances], targets: list[Instances]
    ) -> tuple[Losses, list[Instances]]:
        """See ``StandardRoIHeads.box_losses``."""
        predictions = self.box_head.predictions(features, [image.boxes for image in sampled])
        refined = self.box_head.boxes(predictions, sampled, clip=False)
        moved = [image.with_fields(boxes=boxes) for image, boxes in zip(sampled, refined)]
        return self.box_head.losses(predictions, sampled), moved
