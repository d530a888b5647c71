"""Region proposal network."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from detkit.config import Count, Fraction, NonNegative, Recipe, broken_contract
from detkit.layers import ShapeSpec, choose_features, nms_by_group
from detkit.modeling.anchors import per_anchor, shared_by_levels
from detkit.modeling.box_coder import DeltaBoxCoder
from detkit.modeling.box_losses import SmoothL1BoxLoss, foreground_box_loss
from detkit.modeling.contracts import anchors_on
from detkit.modeling.interfaces import (
    PROPOSAL_GENERATORS,
    AnchorGenerator,
    BoxCoder,
    BoxLoss,
    Features,
    ProposalGenerator,
    RPNHead,
)
from detkit.modeling.matcher import Matcher, matched_boxes
from detkit.modeling.sampling import Sampling
from detkit.registry import Removed
from detkit.structures import Boxes, ImageList, Instances, Losses
from detkit.structures.transforms import Region

DETECTRON2_RULES = {"topk": "level", "topk_by": "logit", "nms": "level", "nms_by": "logit", "clip": "image"}
TORCHVISION_RULES = DETECTRON2_RULES | {"nms_by": "probability"}
MATTERPORT_RULES = TORCHVISION_RULES | {"topk": "image", "topk_by": "probability", "nms": "image", "clip": "canvas"}
"""What options said before each reference had a class."""


@dataclasses.dataclass(frozen=True)
class ProposalSelection:
    """How many of the scored anchors become proposals.

    Args:
        pre_nms_topk_train, pre_nms_topk_test: candidates of each level before NMS.
        post_nms_topk_train, post_nms_topk_test: proposals an image after NMS.
        nms_thresh: IoU above which the lower-scoring of two candidates is dropped.
        score_thresh: candidates whose objectness, as a probability, is below this are dropped.
        min_size: candidates with a side not longer than this many pixels are dropped; null keeps even empty ones.
    """

    pre_nms_topk_train: Count = 2000
    pre_nms_topk_test: Count = 1000
    post_nms_topk_train: Count = 1000
    post_nms_topk_test: Count = 1000
    nms_thresh: Fraction = 0.7
    score_thresh: Fraction = 0.0
    min_size: NonNegative | None = 0.0


@PROPOSAL_GENERATORS.register()
class RPN(ProposalGenerator):
    """Region proposal network (Faster R-CNN, Ren et al. 2015) on a feature pyramid (Lin et al. 2017).

    The steps are Detectron2's: of each level the best anchors are decoded, clipped to the image and suppressed by
    better ones of their level; the best of an image are its proposals. The losses are divided by the number of samples
    that a batch should have.

    Args:
        head: features to objectness and deltas.
        anchor_generator: the boxes that the deltas move.
        in_features: the features to look at; null for all.
        matcher: anchors to ground truth.
        box_coder: how deltas are expressed.
        box_loss: the loss on the deltas of foreground anchors.
        sampling: which anchors are learned from.
        selection: which anchors become proposals.
        loss_weight: factor on both losses.

    Raises:
        ValueError: a feature that there is not; levels with different numbers of anchors or of channels.
    """

    renamed_options: ClassVar[Mapping[str, str | Removed]] = {
        "batch_size_per_image": "sampling.batch_size_per_image",
        "positive_fraction": "sampling.positive_fraction",
        "mean_over": Removed(subclass="TorchvisionRPN", default="batch_size"),
        "selection.rules": Removed(
            "write name: TorchvisionRPN or name: MatterportRPN; their losses are means over the samples",
            default=DETECTRON2_RULES,
            group=DETECTRON2_RULES,
        ),
    }

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        head: Recipe[RPNHead],
        anchor_generator: Recipe[AnchorGenerator],
        in_features: tuple[str, ...] | None = None,
        matcher: Matcher = Matcher(0.3, 0.7, allow_low_quality=True),
        box_coder: Recipe[BoxCoder] = Recipe(DeltaBoxCoder),
        box_loss: Recipe[BoxLoss] = Recipe(SmoothL1BoxLoss),
        sampling: Sampling = Sampling(256, 0.5),
        selection: ProposalSelection = ProposalSelection(),
        loss_weight: NonNegative = 1.0,
    ):
        super().__init__(input_shape)
        shapes = choose_features(input_shape, in_features, "proposal_generator.in_features")
        self.in_features = tuple(shapes)
        specs = list(shapes.values())
        self.anchor_generator = anchor_generator(specs)
        channels, num_anchors = shared_by_levels(self.anchor_generator, specs, "proposal_generator")
        self.head = head(channels, num_anchors)
        if self.head.stride != 1:  # the head looks at fewer cells than there are: anchors stand where it looks
            self.anchor_generator = anchor_generator(
                [dataclasses.replace(spec, stride=spec.stride * self.head.stride) for spec in specs]
            )
        self.matcher, self.box_coder, self.box_loss = matcher, box_coder(), box_loss()
        self.sampling, self.selection, self.loss_weight = sampling, selection, loss_weight

    def loss(self, images: ImageList, features: Features, targets: list[Instances]) -> tuple[list[Instances], Losses]:
        """See ``ProposalGenerator.loss``."""
        anchors, logits, deltas = self.scores(images, features)
        proposals = self.select(anchors, logits, deltas, images, training=True)
        losses = self.losses(Boxes.cat(anchors), torch.cat(logits, 1), torch.cat(deltas, 1), targets)
        return proposals, losses.rescaled(self.loss_weight)

    def predict(self, images: ImageList, features: Features) -> list[Instances]:
        """See ``ProposalGenerator.predict``."""
        anchors, logits, deltas = self.scores(images, features)
        return self.select(anchors, logits, deltas, images, training=False)

    def scores(self, images: ImageList, features: Features) -> tuple[list[Boxes], list[Tensor], list[Tensor]]:
        """Anchors (HWA, 4), objectness logits (N, HWA) and deltas (N, HWA, 4) of each level."""
        maps, logits, deltas = self.head_outputs(features)
        return anchors_on(self.anchor_generator, maps, images.padded_size), logits, deltas

    def head_outputs(self, features: Features) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """A map whose cells the anchors stand on, logits (N, HWA) and deltas (N, HWA, 4), of each level.

        Raises:
            ConfigError: the head gives something else.
        """
        outputs = self.head([features[name] for name in self.in_features])
        number, levels = self.anchor_generator.num_anchors[0], len(self.in_features)
        channels = [[level.shape[1] for level in kind] for kind in outputs]
        if channels != [[number] * levels, [4 * number] * levels]:
            raise broken_contract(
                self.head,
                f"expected objectness of {number} channels and deltas of {4 * number}, two lists of a map for each of"
                f" {levels} levels; got channels {channels}",
            )
        objectness, deltas = outputs
        logits = [per_anchor(o, o.shape[1]).squeeze(2) for o in objectness]
        return objectness, logits, [per_anchor(d, d.shape[1] // 4) for d in deltas]

    @torch.no_grad()
    def select(
        self, anchors: list[Boxes], logits: list[Tensor], deltas: list[Tensor], images: ImageList, *, training: bool
    ) -> list[Instances]:
        """Proposals from the ``scores`` of all levels: an ``Instances(boxes, objectness)`` an image, best first."""
        num = self.selection.pre_nms_topk_train if training else self.selection.pre_nms_topk_test
        boxes, scores, levels = [], [], []
        for level, (anchor, logit, delta) in enumerate(zip(anchors, logits, deltas)):
            index = self.best(logit.float(), min(num, logit.shape[1]))
            chosen = delta.gather(1, index[..., None].expand(-1, -1, 4))
            decoded = self.box_coder.decode(anchor.tensor[index.flatten()], chosen.flatten(0, 1))
            boxes.append(decoded.unflatten(0, index.shape))
            scores.append(logit.float().gather(1, index))
            levels.append(torch.full_like(index, level))
        num = self.selection.post_nms_topk_train if training else self.selection.post_nms_topk_test
        return [
            self._proposals(i, images, *rows)[:num]
            for i, rows in enumerate(zip(torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels, 1)))
        ]

    def _proposals(self, image: int, images: ImageList, boxes: Tensor, scores: Tensor, levels: Tensor) -> Instances:
        """What NMS keeps of an image's M candidates: boxes (M, 4), scores and levels (M,)."""
        chosen = Boxes(boxes).clip_to(self.region(images, image))
        wanted = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
        if self.selection.score_thresh > 0:
            wanted &= scores.sigmoid() >= self.selection.score_thresh
        if self.selection.min_size is not None:
            wanted &= chosen.nonempty(self.selection.min_size)
        chosen, scores, levels = chosen[wanted], scores[wanted], levels[wanted]
        kept = nms_by_group(chosen, self.ranks(scores), self.groups(levels), self.selection.nms_thresh)
        return Instances(
            images.image_sizes[image], info=images.info(image), boxes=chosen[kept], objectness=scores[kept]
        )

    def best(self, logits: Tensor, num: int) -> Tensor:
        """``(N, num)`` indices of the best of ``(N, HWA)`` logits of a level, best first."""
        return logits.topk(num, dim=1).indices

    def region(self, images: ImageList, image: int) -> Region:
        """``(x1, y1, x2, y2)`` that an image's proposals are cut to: what is image, and not padding."""
        return images.valid_region(image)

    def ranks(self, scores: Tensor) -> Tensor:
        """What NMS orders the candidates by, given their logits."""
        return scores

    def groups(self, levels: Tensor) -> Tensor | None:
        """Candidates of different groups do not suppress one another; None for no groups."""
        return levels

    @torch.no_grad()
    def label(self, anchors: Boxes, targets: Sequence[Instances]) -> tuple[Tensor, Tensor]:
        """``(N, HWA)`` rows of the targets, and labels: 1 foreground, 0 background, -1 ignored."""
        matched = [self.matcher.match(anchors, target) for target in targets]
        return torch.stack([rows for rows, _ in matched]), torch.stack([labels for _, labels in matched])

    def losses(self, anchors: Boxes, logits: Tensor, deltas: Tensor, targets: list[Instances]) -> Losses:
        """The losses on a sample of the anchors of all levels: logits (N, HWA), deltas (N, HWA, 4)."""
        matches, labels = self.label(anchors, targets)
        index, valid = self.sampling(labels, background=0)
        foreground = valid & (labels.gather(1, index) == 1)
        errors = F.binary_cross_entropy_with_logits(
            logits.gather(1, index).float(), foreground.float(), reduction="none"
        )
        num_samples, num_foreground = valid.sum(), foreground.sum()
        normaliser = self.normaliser(num_samples, len(targets)).float()
        max_positives = self.sampling.max_positives(labels.shape[1])
        first = index[:, :max_positives]  # all of the foreground is here
        boxes, box_normaliser = foreground_box_loss(
            self.box_loss,
            self.box_coder,
            deltas.gather(1, first[..., None].expand(-1, -1, 4)).flatten(0, 1),
            anchors.tensor[first.flatten()],
            Boxes.cat([matched_boxes(t, rows[chosen]) for t, rows, chosen in zip(targets, matches, first)]),
            foreground[:, :max_positives].flatten(),
            normaliser,
        )
        return Losses(
            terms={
                "loss_rpn_cls": errors.masked_fill(~valid, 0.0).sum() / normaliser.clamp(min=1),
                "loss_rpn_loc": boxes,
            },
            metrics={
                "rpn/num_foreground": num_foreground.float() / len(targets),
                "rpn/num_background": (num_samples - num_foreground).float() / len(targets),
            },
            normalisers={"loss_rpn_cls": normaliser, "loss_rpn_loc": box_normaliser},
        )

    def normaliser(self, num_samples: Tensor, num_images: int) -> Tensor:
        """What sums over the sampled anchors are divided by, 0-d; ``num_samples`` (0-d) were found in the batch."""
        return torch.full_like(num_samples, self.sampling.batch_size_per_image * num_images)
