"""The stages of detkit's detectors, each to be run on its own."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from detkit.comparisons.hooks import replaced
from detkit.modeling.interfaces import Features
from detkit.modeling.meta_archs import DenseDetector, FeatureModel, GeneralizedRCNN
from detkit.modeling.postprocess import to_original_size
from detkit.modeling.proposals import RPN
from detkit.modeling.roi_heads.box_head import BoxPredictions, FastRCNNHead
from detkit.modeling.sampling import Sampling
from detkit.registry import ConfigError
from detkit.structures import Boxes, ImageList, Instances, Sample

EVERYTHING = 10**7
"""As a batch size: sampling takes all there is, so randomness has no part in the losses."""


@dataclasses.dataclass(frozen=True)
class Regions:
    """What the RoI heads make of proposals.

    Args:
        logits: ``(R, K + 1)`` class logits of the proposals of all images, background last.
        deltas: ``(R, 4K)`` box deltas, dx, dy, dw, dh of each class.
        detections: an image: ``boxes``, ``scores``, ``classes`` and, from a model with masks, ``mask_probs``, in the
            pixels of the network's input.
    """

    logits: Tensor
    deltas: Tensor
    detections: list[Instances]


M = TypeVar("M", bound=FeatureModel)


class FirstStages(Generic[M]):
    """What all detectors have, in evaluation mode; nothing here has gradients.

    Args:
        model: with its weights.

    Raises:
        ConfigError: another meta-architecture than those of ``kind``.
    """

    kind: ClassVar[type[FeatureModel]] = FeatureModel

    def __init__(self, model: nn.Module):
        if not isinstance(model, self.kind):
            name, kind = type(model).__name__, self.kind.__name__
            raise ConfigError(f"model: {name} cannot be compared stage by stage with this reference; take {kind}")
        self.model = cast(M, model.eval())

    @torch.no_grad()
    def images(self, samples: list[Sample]) -> ImageList:
        """The network's input."""
        return self.model.preprocess(samples)

    @torch.no_grad()
    def features(self, images: ImageList) -> Features:
        """The maps that proposals and regions are taken from."""
        tensor = images.tensor.contiguous(memory_format=self.model.preprocess.memory_format)
        return self.model.features(dataclasses.replace(images, tensor=tensor))

    @torch.no_grad()
    def losses(self, samples: list[Sample]) -> dict[str, float]:
        """The losses of samples with targets, norms in evaluation mode."""
        return _numbers(self.model.loss(samples).terms)


class DenseStages(FirstStages[DenseDetector]):
    """A one-stage detector, stage by stage; see ``FirstStages``."""

    kind = DenseDetector

    @torch.no_grad()
    def detections(self, images: ImageList, features: Features) -> list[Instances]:
        """``boxes``, ``scores`` and ``classes`` of each image, in the pixels of the network's input."""
        return self.model.head.predict(images, features)

    def outputs(self, detections: Instances, original_size: tuple[int, int]) -> Instances:
        """The detections in the pixels of the original image."""
        return cast(Instances, self.model.prediction(detections, original_size).instances)


class Stages(FirstStages[GeneralizedRCNN]):
    """A two-stage detector, stage by stage; see ``FirstStages``."""

    kind = GeneralizedRCNN

    @property
    def has_masks(self) -> bool:
        """Whether there is a mask head."""
        return getattr(self.model.roi_heads, "mask_head", None) is not None

    @torch.no_grad()
    def proposals(self, images: ImageList, features: Features) -> list[Instances]:
        """``boxes`` and ``objectness`` of each image."""
        return self.model.proposal_generator.predict(images, features)

    @torch.no_grad()
    def anchors(self, images: ImageList, features: Features) -> tuple[Tensor, Tensor, Tensor]:
        """Anchors ``(A, 4)``, their logits ``(A,)`` and deltas ``(A, 4)``, of one image, all levels together."""
        rpn = self.model.proposal_generator
        if not isinstance(rpn, RPN):
            raise ConfigError(f"model.proposal_generator: {type(rpn).__name__} has no anchors to compare")
        anchors, logits, deltas = rpn.scores(images, features)
        return Boxes.cat(anchors).tensor, torch.cat([level[0] for level in logits]), torch.cat([d[0] for d in deltas])

    @torch.no_grad()
    def regions(
        self, features: Features, proposals: list[Instances], instead: tuple[Tensor, Tensor] | None = None
    ) -> Regions:
        """The RoI heads.

        Args:
            features: maps.
            proposals: ``boxes`` of each image.
            instead: logits and deltas that the detections are made from, instead of the box head's own.
        """
        head, own = self._box_head, list[BoxPredictions]()

        def detections(
            predictions: BoxPredictions, proposals: list[Instances], scores: Tensor | None = None
        ) -> list[Instances]:
            """The head's detections, from its own predictions or from the given ones."""
            own.append(predictions)
            chosen = predictions if instead is None else BoxPredictions(*instead)
            return type(head).detections(head, chosen, proposals, scores)

        with replaced(head, "detections", detections):
            found = self.model.roi_heads.predict(features, proposals)
        return Regions(*own[0], found)

    @torch.no_grad()
    def masks(self, features: Features, detections: list[Instances]) -> list[Instances]:
        """These detections with the ``mask_probs`` that the mask head gives them."""
        return self.model.roi_heads.described(features, detections)

    def outputs(self, detections: Instances, original_size: tuple[int, int]) -> Instances:
        """The detections in the pixels of the original image, ``mask_probs`` as they are."""
        without = detections.without("mask_probs").with_fields(row=torch.arange(len(detections)))
        moved = to_original_size(without, original_size, self.model.mask_paster)
        if "mask_probs" not in detections:
            return moved
        return moved.with_fields(mask_probs=detections.mask_probs[moved.row])

    @torch.no_grad()
    def losses_of(
        self, images: ImageList, features: Features, proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, float]:
        """The losses of proposal generator and RoI heads, each on inputs that are given."""
        _, of_proposals = self.model.proposal_generator.loss(images, features, targets)
        region_losses = self.model.roi_heads.loss(features, proposals, targets)
        return _numbers((of_proposals | region_losses).terms)

    @contextmanager
    def sampling_everything(self) -> Iterator[None]:
        """Within, no anchor and no proposal is left out of the losses at random."""
        with ExitStack() as stack:
            for part in (self.model.proposal_generator, self.model.roi_heads):
                sampling = dataclasses.replace(cast(Sampling, part.sampling), batch_size_per_image=EVERYTHING)
                stack.enter_context(replaced(part, "sampling", sampling))
            yield

    @property
    def _box_head(self) -> FastRCNNHead:
        head = getattr(self.model.roi_heads, "box_head", None)
        head = head[-1] if isinstance(head, nn.ModuleList) else head  # a cascade's last makes the detections
        if not isinstance(head, FastRCNNHead):
            raise ConfigError(f"model.roi_heads: {type(self.model.roi_heads).__name__} has no box head to compare")
        return head


def _numbers(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in terms.items()}
