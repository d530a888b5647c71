"""Two-stage detectors."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from detkit.config import Fraction, Recipe
from detkit.modeling.interfaces import META_ARCHS, Backbone, Features, MaskPaster, Neck, ProposalGenerator, RoIHeads
from detkit.modeling.mask_pasters import GridSampleMaskPaster
from detkit.modeling.meta_archs.features import FeatureModel, Outputs
from detkit.modeling.postprocess import to_original_size
from detkit.modeling.preprocess import Preprocess
from detkit.structures import ImageList, Instances, Losses, Prediction, Sample


@META_ARCHS.register()
class GeneralizedRCNN(FeatureModel):
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
        super().__init__(num_classes, preprocess, backbone, neck)
        self.proposal_generator = proposal_generator(self.output_shape)
        self.roi_heads = roi_heads(self.output_shape, num_classes)
        self.mask_paster, self.mask_thresh = mask_paster(), mask_thresh
        self.set_layout()

    def loss(self, samples: list[Sample]) -> Losses:
        """See ``MetaArch.loss``.

        Raises:
            ValueError: a sample without a target.
        """
        images, targets = self.preprocess.with_targets(samples)
        return self.losses(images, self.features(images), targets)

    def losses(self, images: ImageList, features: Features, targets: list[Instances]) -> Losses:
        """The losses of proposals and RoI heads."""
        proposals, losses = self.proposal_generator.loss(images, features, targets)
        return losses | self.region_losses(features, proposals, targets)

    def region_losses(self, features: Features, proposals: list[Instances], targets: list[Instances]) -> Losses:
        """The losses of the RoI heads."""
        return self.roi_heads.loss(features, proposals, targets)

    def outputs(self, images: ImageList, features: Features) -> Outputs:
        """See ``FeatureModel.outputs``."""
        return Outputs(self.roi_heads.predict(features, self.proposal_generator.predict(images, features)))

    def prediction(self, instances: Instances, original_size: tuple[int, int]) -> Prediction:
        """See ``FeatureModel.prediction``."""
        moved = to_original_size(instances, original_size, self.mask_paster, self.mask_thresh)
        return Prediction(moved, num_cut=instances.info.num_cut)

    @torch.no_grad()
    def detections(self, samples: list[Sample]) -> list[Instances]:
        """See ``FeatureModel.detections``."""
        images = self.preprocess(samples)
        features = self.features(images)
        return self.roi_heads.box_detections(features, self.proposal_generator.predict(images, features))

    def choose(self, candidates: Instances) -> Instances:
        """See ``FeatureModel.choose``."""
        return self.roi_heads.choose(candidates)

    @torch.no_grad()
    def described(self, samples: list[Sample], instances: list[Instances]) -> list[Instances]:
        """See ``FeatureModel.described``."""
        return self.roi_heads.described(self.features(self.preprocess(samples)), instances)
