"""PanopticFPN: objects and stuff."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from detkit.config import Fraction, NonNegative, Recipe
from detkit.modeling.interfaces import (
    META_ARCHS,
    Backbone,
    Features,
    MaskPaster,
    Neck,
    ProposalGenerator,
    RoIHeads,
    SemanticHead,
)
from detkit.modeling.mask_pasters import GridSampleMaskPaster
from detkit.modeling.meta_archs.features import Outputs
from detkit.modeling.meta_archs.rcnn import GeneralizedRCNN
from detkit.modeling.meta_archs.semantic import SemanticNames, checked_names
from detkit.modeling.preprocess import Preprocess
from detkit.modeling.semantic import PanopticMerge, batched_maps, original_logits
from detkit.structures import ImageList, Instances, Losses, Prediction, Sample


@META_ARCHS.register()
class PanopticFPN(GeneralizedRCNN):
    """A two-stage detector with masks and a semantic head on the same features (Kirillov et al. 2019, 1901.02446).

    Predictions have ``instances``, ``semantic`` and ``panoptic``. Segments of things have the objects' classes, those
    of stuff the classes of the semantic map. The first class of the semantic map is all things together.

    Args:
        preprocess, backbone, neck, proposal_generator, roi_heads, mask_paster, mask_thresh: see ``GeneralizedRCNN``.
        semantic_head: feature maps to the class of each pixel.
        semantic_names: the classes of the semantic map, the first for all things; null: those of the training data.
        merge: how instances and semantic map become a panoptic map.
        instance_loss_weight: factor of the losses of the RoI heads (the paper's equation 1). Detectron2's option of
            that name is one of the boxes and masks alone: write ``roi_heads.box_head.box_loss.weight`` and
            ``roi_heads.mask_head.loss_weight`` for that.

    Raises:
        ConfigError: no semantic class besides the things, or RoI heads without masks.
    """

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Called when a config is loaded. Raises ValueError for RoI heads without masks."""
        if options["roi_heads"].kwargs.get("mask_head", ...) is None:
            raise ValueError("roi_heads.mask_head: is null, but things of a panoptic map need masks; give one")

    def __init__(
        self,
        num_classes: int,
        *,
        preprocess: Recipe[Preprocess] = Recipe(Preprocess),
        backbone: Recipe[Backbone],
        neck: Recipe[Neck] | None,
        proposal_generator: Recipe[ProposalGenerator],
        roi_heads: Recipe[RoIHeads],
        mask_paster: Recipe[MaskPaster] = Recipe(GridSampleMaskPaster),
        mask_thresh: Fraction = 0.5,
        semantic_head: Recipe[SemanticHead],
        semantic_names: SemanticNames = None,
        merge: PanopticMerge = PanopticMerge(),
        instance_loss_weight: NonNegative = 1.0,
    ):
        super().__init__(
            num_classes,
            preprocess=preprocess,
            backbone=backbone,
            neck=neck,
            proposal_generator=proposal_generator,
            roi_heads=roi_heads,
            mask_paster=mask_paster,
            mask_thresh=mask_thresh,
        )
        self.semantic_names, self.merge = checked_names(semantic_names), merge
        self.instance_loss_weight = instance_loss_weight
        self.semantic_head = semantic_head(self.output_shape, len(self.semantic_names))
        self.set_layout()

    def loss(self, samples: list[Sample]) -> Losses:
        """See ``MetaArch.loss``. Raises ValueError for a sample without a target, or without a semantic map."""
        images, targets = self.preprocess.with_targets(samples)
        maps = batched_maps(samples, images, len(self.semantic_names))
        features = self.features(images)
        return self.losses(images, features, targets) | self.semantic_head.loss(features, maps)

    def region_losses(self, features: Features, proposals: list[Instances], targets: list[Instances]) -> Losses:
        """See ``GeneralizedRCNN.region_losses``; times ``instance_loss_weight``."""
        return super().region_losses(features, proposals, targets).rescaled(self.instance_loss_weight)

    def outputs(self, images: ImageList, features: Features) -> Outputs:
        """See ``FeatureModel.outputs``."""
        return dataclasses.replace(super().outputs(images, features), semantic=self.semantic_logits(features))

    def semantic_logits(self, features: Features) -> torch.Tensor:
        """See ``FeatureModel.semantic_logits``."""
        return self.semantic_head.predict(features)

    def predictions(self, outputs: Outputs, images: ImageList, samples: list[Sample]) -> list[Prediction]:
        """Instances, semantic and panoptic map of each image. Raises ValueError where no head gives masks."""
        assert outputs.semantic is not None
        maps = original_logits(outputs.semantic, images, samples)
        found = super().predictions(outputs, images, samples)
        return [self.joined(prediction, logits.argmax(0)) for prediction, logits in zip(found, maps)]

    def joined(self, prediction: Prediction, semantic: torch.Tensor) -> Prediction:
        """See ``FeatureModel.joined``: the panoptic map too. Raises ValueError for instances without masks."""
        instances = prediction.instances
        if instances is None or "masks" not in instances:
            raise ValueError("PanopticFPN: the RoI heads give no masks; give model.roi_heads.mask_head")
        panoptic = self.merge(instances, semantic)
        return Prediction(instances, semantic, panoptic, num_cut=prediction.num_cut)
