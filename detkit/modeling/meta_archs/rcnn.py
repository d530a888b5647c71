"""Two-stage detectors."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from detkit.config import Fraction, Recipe
from detkit.layers import ShapeSpec
from detkit.modeling.interfaces import (
    META_ARCHS,
    Backbone,
    Features,
    MaskPaster,
    MetaArch,
    Neck,
    ProposalGenerator,
    RoIHeads,
)
from detkit.modeling.mask_pasters import GridSampleMaskPaster
from detkit.modeling.postprocess import to_original_size
from detkit.modeling.preprocess import Preprocess
from detkit.structures import ImageList, Losses, Prediction, Sample


@META_ARCHS.register()
class GeneralizedRCNN(MetaArch):
    """Backbone, neck, proposals, RoI heads: Faster R-CNN, Mask R-CNN and their family (Ren 2015, He 2017).

    Args:
        preprocess: samples to a batch of images.
        backbone: image to feature maps.
        neck: feature maps to feature maps; null for none.
        proposal_generator: feature maps to proposals.
        roi_heads: proposals to detections.
        mask_paster: from the mask head's small masks to masks of the image's size.
        mask_thresh: probability from which a pixel belongs to an object.
    """

    renamed_options: ClassVar[Mapping[str, str]] = {
        name: f"preprocess.{name}"
        for name in (
            *("pixel_mean", "pixel_std", "pixel_scale", "pixel_precision"),
            *("channel_order", "resize", "channels_last"),
        )
    }

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
    ):
        super().__init__(num_classes)
        self.preprocess = preprocess()
        self.backbone = backbone(ShapeSpec(channels=self.preprocess.num_channels))
        self.neck = None if neck is None else neck(self.backbone.output_shape)
        self.preprocess.pad_for(self.backbone, self.neck)
        shapes = self.backbone.output_shape if self.neck is None else self.neck.output_shape
        self.proposal_generator = proposal_generator(shapes)
        self.roi_heads = roi_heads(shapes, num_classes)
        self.mask_paster, self.mask_thresh = mask_paster(), mask_thresh
        self.to(memory_format=self.preprocess.memory_format)

    def loss(self, samples: list[Sample]) -> Losses:
        """See ``MetaArch.loss``.

        Raises:
            ValueError: a sample without a target.
        """
        images, targets = self.preprocess.with_targets(samples)
        features = self.features(images)
        proposals, losses = self.proposal_generator.loss(images, features, targets)
        return losses | self.roi_heads.loss(features, proposals, targets)

    @torch.no_grad()
    def predict(self, samples: list[Sample]) -> list[Prediction]:
        """See ``MetaArch.predict``."""
        images = self.preprocess(samples)
        features = self.features(images)
        proposals = self.proposal_generator.predict(images, features)
        instances = self.roi_heads.predict(features, proposals)
        return [
            Prediction(to_original_size(i, s.original_size, self.mask_paster, self.mask_thresh), num_cut=i.info.num_cut)
            for i, s in zip(instances, samples)
        ]

    def features(self, images: ImageList) -> Features:
        """The maps that proposals and regions are taken from."""
        features = self.backbone(images.tensor)
        return features if self.neck is None else self.neck(features)
