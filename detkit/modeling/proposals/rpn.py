"""Region proposal network."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from detkit.config import Recipe
from detkit.layers import ShapeSpec
from detkit.modeling.box_coder import BoxCoder
from detkit.modeling.box_losses import SmoothL1BoxLoss
from detkit.modeling.interfaces import (
    PROPOSAL_GENERATORS,
    AnchorGenerator,
    BoxLoss,
    Features,
    ProposalGenerator,
    RPNHead,
)
from detkit.modeling.matcher import Matcher
from detkit.modeling.proposals.selection import ProposalSelection
from detkit.modeling.sampling import sample_balanced
from detkit.structures import Boxes, ImageList, Instances, Losses


@PROPOSAL_GENERATORS.register()
class RPN(ProposalGenerator):
    """Region proposal network (Faster R-CNN, Ren et al. 2015) on a feature pyramid (Lin et al. 2017).

    Args:
        head: features to objectness and deltas.
        anchor_generator: the boxes that the deltas move.
        in_features: the features to look at; null for all.
        matcher: anchors to ground truth.
        box_coder: how deltas are expressed.
        box_loss: the loss on the deltas of foreground anchors.
        batch_size_per_image: sampled anchors an image.
        positive_fraction: the largest share of foreground among them.
        mean_over: what the sums over the sampled anchors are divided by: batch_size is ``batch_size_per_image`` times
            the number of images (Detectron2), samples the number of anchors that were found (torchvision, matterport).
        selection: from scored anchors to proposals.

    Raises:
        ValueError: a feature that there is not; levels with different numbers of anchors or of channels.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        head: Recipe[RPNHead],
        anchor_generator: Recipe[AnchorGenerator],
        in_features: tuple[str, ...] | None = None,
        matcher: Matcher = Matcher(0.3, 0.7, allow_low_quality=True),
        box_coder: BoxCoder = BoxCoder(),
        box_loss: Recipe[BoxLoss] = Recipe(SmoothL1BoxLoss),
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
        mean_over: Literal["batch_size", "samples"] = "batch_size",
        selection: ProposalSelection = ProposalSelection(),
    ):
        super().__init__(input_shape)
        shapes = choose_features(input_shape, in_features, "proposal_generator.in_features")
        self.in_features = tuple(shapes)
        specs = list(shapes.values())
        self.anchor_generator = anchor_generator(specs)
        counts, channels = set(self.anchor_generator.num_anchors), {s.channels for s in specs}
        if len(counts) != 1 or len(channels) != 1:
            raise ValueError(
                f"proposal_generator: its head is shared by all levels, so each needs as many anchors (got "
                f"{self.anchor_generator.num_anchors}) and channels (got {[s.channels for s in specs]}) as the next"
            )
        self.head = head(channels.pop(), counts.pop())
        if self.head.stride != 1:  # the head looks at fewer cells than there are: anchors stand where it looks
            self.anchor_generator = anchor_generator(
                [dataclasses.replace(spec, stride=spec.stride * self.head.stride) for spec in specs]
            )
        self.matcher, self.box_coder, self.box_loss = matcher, box_coder, box_loss()
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.mean_over, self.selection = mean_over, selection

    def loss(self, images: ImageList, features: Features, targets: list[Instances]) -> tuple[list[Instances], Losses]:
        """See ``ProposalGenerator.loss``."""
        anchors, logits, deltas = self._predict(images, features)
        proposals = self.selection(anchors, logits, deltas, images, self.box_coder, training=True)
        return proposals, self._losses(Boxes.cat(anchors), torch.cat(logits, 1), torch.cat(deltas, 1), targets)

    def predict(self, images: ImageList, features: Features) -> list[Instances]:
        """See ``ProposalGenerator.predict``."""
        anchors, logits, deltas = self._predict(images, features)
        return self.selection(anchors, logits, deltas, images, self.box_coder, training=False)

    def _predict(self, images: ImageList, features: Features) -> tuple[list[Boxes], list[Tensor], list[Tensor]]:
        """Anchors (HWA, 4), logits (N, HWA) and deltas (N, HWA, 4) of each level."""
        maps = [features[name] for name in self.in_features]
        objectness, deltas = self.head(maps)
        logits = [o.permute(0, 2, 3, 1).flatten(1) for o in objectness]
        moves = [d.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for d in deltas]
        return self.anchor_generator(objectness, images.canvas_size), logits, moves

    @torch.no_grad()
    def label(self, anchors: Boxes, targets: Sequence[Instances]) -> list[tuple[Tensor, Tensor]]:
        """An image: ``(HWA,)`` sampled labels (1 foreground, 0 background, -1 not sampled) and matched indices."""
        labelled = []
        for positive, negative, matches in self._sample(anchors, targets):
            labels = torch.full_like(matches, -1)
            labels[positive], labels[negative] = 1, 0
            labelled.append((labels, matches))
        return labelled

    @torch.no_grad()
    def _sample(self, anchors: Boxes, targets: Sequence[Instances]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """An image: the sampled foreground and background, in the anchors' order, and ``(HWA,)`` matched indices."""
        matched = [self.matcher.match(anchors, target) for target in targets]
        drawn = sample_balanced(
            [labels for _, labels in matched], self.batch_size_per_image, self.positive_fraction, background=0
        )
        return [(p.sort().values, n.sort().values, matches) for (p, n), (matches, _) in zip(drawn, matched)]

    def _losses(self, anchors: Boxes, logits: Tensor, deltas: Tensor, targets: list[Instances]) -> Losses:
        sampled = self._sample(anchors, targets)
        foreground, background = [p for p, _, _ in sampled], [n for _, n, _ in sampled]
        positive = torch.cat([rows + i * len(anchors) for i, rows in enumerate(foreground)])
        negative = torch.cat([rows + i * len(anchors) for i, rows in enumerate(background)])
        rows, order = torch.cat([positive, negative]).sort()
        wanted = (order < len(positive)).float()
        objectness = F.binary_cross_entropy_with_logits(logits.flatten()[rows].float(), wanted, reduction="sum")
        count = len(rows) if self.mean_over == "samples" else self.batch_size_per_image * len(targets)
        gt_boxes = [t.boxes.tensor[matches[of_image]] for t, (of_image, _, matches) in zip(targets, sampled)]
        reference = torch.cat([anchors.tensor[of_image] for of_image in foreground])
        boxes = self.box_loss(
            self.box_coder, deltas.flatten(0, 1)[positive], reference, torch.cat(gt_boxes), max(count, 1)
        )
        return Losses(
            terms={"loss_rpn_cls": objectness / max(count, 1), "loss_rpn_loc": boxes},
            metrics={
                "rpn/num_foreground": logits.new_full((), len(positive) / len(targets), dtype=torch.float32),
                "rpn/num_background": logits.new_full((), len(negative) / len(targets), dtype=torch.float32),
            },
            counts={
                "loss_rpn_cls": logits.new_full((), count, dtype=torch.float32),
                "loss_rpn_loc": logits.new_full((), self.box_loss.count(len(reference), count), dtype=torch.float32),
            },
        )


def choose_features(
    input_shape: dict[str, ShapeSpec], names: tuple[str, ...] | None, option: str
) -> dict[str, ShapeSpec]:
    """The entries of ``input_shape`` that ``names`` lists (None: all). Raises ValueError for one that is not there."""
    missing = [n for n in names or () if n not in input_shape]
    if missing:
        raise ValueError(f"{option}: no feature named {', '.join(missing)}; there are {', '.join(input_shape)}")
    return {name: input_shape[name] for name in (input_shape if names is None else names)}
