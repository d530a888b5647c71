"""Region proposal network."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from detkit.config import Recipe
from detkit.layers import ShapeSpec, waits
from detkit.modeling.box_coder import BoxCoder
from detkit.modeling.box_losses import SmoothL1BoxLoss, foreground_box_loss
from detkit.modeling.fillers import without_fillers
from detkit.modeling.interfaces import (
    PROPOSAL_GENERATORS,
    AnchorGenerator,
    BoxLoss,
    Features,
    ProposalGenerator,
    RPNHead,
)
from detkit.modeling.matcher import Matcher, true_boxes
from detkit.modeling.proposals.selection import ProposalSelection
from detkit.modeling.sampling import most_foreground, sample_balanced
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
        if not waits.waits_for(images.tensor.device):
            proposals = without_fillers(proposals)
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
        return self.anchor_generator(objectness, images.padded_size), logits, moves

    @torch.no_grad()
    def label(self, anchors: Boxes, targets: Sequence[Instances]) -> list[tuple[Tensor, Tensor]]:
        """An image: ``(HWA,)`` sampled labels (1 foreground, 0 background, -1 not sampled) and matched indices."""
        labels, matches = self._match(anchors, targets)
        index, drawn = self._sample(labels)
        found = labels.gather(1, index).masked_fill(~drawn, -1)
        return list(zip(torch.full_like(labels, -1).scatter(1, index, found), matches))

    @torch.no_grad()
    def _match(self, anchors: Boxes, targets: Sequence[Instances]) -> tuple[Tensor, Tensor]:
        """Labels and matched indices ``(N, HWA)``."""
        matched = [self.matcher.match(anchors, target) for target in targets]
        return torch.stack([labels for _, labels in matched]), torch.stack([matches for matches, _ in matched])

    def _sample(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Indices and whether there is something ``(N, S)``, see ``sample_balanced``."""
        return sample_balanced(labels, self.batch_size_per_image, self.positive_fraction, background=0)

    def _losses(self, anchors: Boxes, logits: Tensor, deltas: Tensor, targets: list[Instances]) -> Losses:
        labels, matches = self._match(anchors, targets)
        index, drawn = self._sample(labels)
        foreground = drawn & (labels.gather(1, index) == 1)
        errors = F.binary_cross_entropy_with_logits(
            logits.gather(1, index).float(), foreground.float(), reduction="none"
        )
        found = drawn.sum()
        batch = torch.full_like(found, self.batch_size_per_image * len(targets))
        count = (found if self.mean_over == "samples" else batch).float()
        # Foreground comes first: what stands behind the most that there can be needs no box.
        most = most_foreground(index.shape[1], self.batch_size_per_image, self.positive_fraction)
        first = index[:, :most]
        boxes, box_count = foreground_box_loss(
            self.box_loss,
            self.box_coder,
            deltas.gather(1, first[..., None].expand(-1, -1, 4)).flatten(0, 1),
            anchors.tensor[first.flatten()],
            torch.cat([true_boxes(t, of[rows]) for t, of, rows in zip(targets, matches, first)]),
            foreground[:, :most].flatten(),
            count,
        )
        positive = foreground.sum()
        return Losses(
            terms={
                "loss_rpn_cls": errors.masked_fill(~drawn, 0.0).sum() / count.clamp(min=1),
                "loss_rpn_loc": boxes,
            },
            metrics={
                "rpn/num_foreground": positive.float() / len(targets),
                "rpn/num_background": (found - positive).float() / len(targets),
            },
            normalisers={"loss_rpn_cls": count, "loss_rpn_loc": box_count},
        )


def choose_features(
    input_shape: dict[str, ShapeSpec], names: tuple[str, ...] | None, option: str
) -> dict[str, ShapeSpec]:
    """The entries of ``input_shape`` that ``names`` lists (None: all). Raises ValueError for one that is not there."""
    missing = [n for n in names or () if n not in input_shape]
    if missing:
        raise ValueError(f"{option}: no feature named {', '.join(missing)}; there are {', '.join(input_shape)}")
    return {name: input_shape[name] for name in (input_shape if names is None else names)}
