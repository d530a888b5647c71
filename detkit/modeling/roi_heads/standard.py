"""The RoI heads of Faster and Mask R-CNN."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.rnn import pad_sequence

from detkit.config import Recipe
from detkit.layers import HostCopy, ShapeSpec, waits
from detkit.modeling.interfaces import ROI_HEADS, BoxHead, Features, KeypointHead, MaskHead, RoIHeads
from detkit.modeling.matcher import Matcher, true_boxes
from detkit.modeling.proposals.rpn import choose_features
from detkit.modeling.sampling import is_foreground, sample_balanced
from detkit.structures import Boxes, Instances, Losses, PolygonMasks


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

    takes_fillers = True

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
    def region_parts(self) -> list[nn.Module]:
        """What all samples go through together."""
        return [self.box_head]

    @property
    def may_have_fillers(self) -> bool:
        """Whether these heads and the box head take fillers, and no batch norm would count them."""
        norms = [part for parts in self.region_parts for part in parts.modules() if isinstance(part, _BatchNorm)]
        return self.takes_fillers and self.box_head.takes_fillers and not any(norm.training for norm in norms)

    @property
    def instance_heads(self) -> list[MaskHead | KeypointHead]:
        """The heads that work on foreground in training and on detections in prediction."""
        return [head for head in (self.mask_head, self.keypoint_head) if head is not None]

    def loss(self, features: Features, proposals: list[Instances], targets: list[Instances]) -> Losses:
        """See ``RoIHeads.loss``."""
        sampled = self.sample(proposals, targets)
        # Asked for before the box head's work is queued, so that the wait is not for that.
        on_host = self.to_host(sampled) if self.instance_heads else None
        losses = self.box_head.loss(features, sampled)
        if self.instance_heads:
            foreground = self.foreground(sampled, targets, on_host)
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
            ``gt_boxes`` are zeros. On a GPU the last may be fillers, of class -1, where ``may_have_fillers``.
        """
        if not targets:
            return []
        labelled = [self._label(of_image, target) for of_image, target in zip(proposals, targets)]
        boxes, matches, classes = (
            pad_sequence(list(parts), batch_first=True, padding_value=padding)
            for parts, padding in zip(zip(*labelled), (0.0, 0, -1))
        )
        index, drawn = sample_balanced(
            classes,
            self.batch_size_per_image,
            self.positive_fraction,
            background=self.num_classes,
            fill=self.fill_background,
        )
        boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        matches, classes = matches.gather(1, index), classes.gather(1, index).masked_fill(~drawn, -1)
        sampled = [
            Instances(
                target.image_size,
                info=target.info,
                boxes=Boxes(of_boxes),
                classes=of_classes,
                gt_index=rows,
                gt_boxes=Boxes(true_boxes(target, rows)),
            )
            for target, of_boxes, of_classes, rows in zip(targets, boxes, classes, matches)
        ]
        if self.may_have_fillers and waits.waits_for(boxes.device):
            return sampled
        return [of_image[:number] for of_image, number in zip(sampled, drawn.sum(dim=1).tolist())]

    def _label(self, proposals: Instances, target: Instances) -> tuple[Tensor, Tensor, Tensor]:
        """``(R, 4)`` candidates, ``(R,)`` their matched rows of the target, and classes: ``num_classes`` is background,
        -1 is ignored."""
        boxes = proposals.boxes
        if self.append_ground_truth:
            boxes = Boxes.cat([boxes, target.boxes])
        matches, labels = self.matcher.match(boxes, target)
        classes = torch.full_like(matches, self.num_classes)
        if len(target):
            classes = torch.where(labels == 1, target.classes[matches], classes)
        classes = classes.masked_fill(labels == -1, -1)
        if "objectness" in proposals:
            classes[: len(proposals)].masked_fill_(proposals.objectness == -torch.inf, -1)
        return boxes.tensor, matches, classes

    def to_host(self, sampled: Sequence[Instances]) -> HostCopy:
        """Sends to the host what ``foreground`` needs there; meanwhile the device may go on."""
        return HostCopy([part for s in sampled for part in (s.classes, s.gt_index, s.boxes.tensor)])

    def foreground(
        self, sampled: Sequence[Instances], targets: Sequence[Instances], on_host: HostCopy | None = None
    ) -> list[Instances]:
        """The foreground of each image's sample, with all fields of its ground truth: masks are copied for these alone.

        Args:
            sampled: of ``sample``, so foreground comes first.
            targets: what it was matched to.
            on_host: of ``to_host``; None: asked for now.
        """
        copies = (on_host or self.to_host(sampled)).wait()
        chosen = []
        for i, (of_image, target) in enumerate(zip(sampled, targets)):
            classes, rows, boxes = copies[3 * i : 3 * i + 3]
            number = int(is_foreground(classes, self.num_classes).sum())
            of_image, rows = of_image[:number], rows[:number]
            fields = {
                f"gt_{name}": field[rows if isinstance(field, PolygonMasks) else of_image.gt_index]
                for name, field in target.fields.items()
                if name not in ("boxes", "classes")
            }
            known = of_image.boxes.with_host_copy(boxes[:number])
            chosen.append(of_image.with_fields(boxes=known, **fields))
        return chosen

    def counts(self, sampled: list[Instances]) -> dict[str, Tensor]:
        """Metrics: foreground and background an image."""
        classes = torch.cat([of_image.classes for of_image in sampled])
        foreground = is_foreground(classes, self.num_classes).sum().float() / len(sampled)
        return {
            "roi_heads/num_foreground": foreground,
            "roi_heads/num_background": (classes == self.num_classes).sum().float() / len(sampled),
        }
