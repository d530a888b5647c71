"""One-stage detectors."""

import torch

from detkit.config import Recipe
from detkit.modeling.interfaces import META_ARCHS, Backbone, DenseHead, Features, Neck
from detkit.modeling.meta_archs.features import FeatureModel, Outputs
from detkit.modeling.postprocess import to_original_size
from detkit.modeling.preprocess import Preprocess
from detkit.structures import ImageList, Instances, Losses, Prediction, Sample


@META_ARCHS.register()
class DenseDetector(FeatureModel):
    """Backbone, neck, and a head that looks at every cell of the maps: RetinaNet (Lin 2017), FCOS (Tian 2019).

    Args:
        preprocess: samples to a batch of images.
        backbone: image to feature maps.
        neck: feature maps to feature maps; null for none.
        head: feature maps to detections.
        keep_empty: detections without area, which lie beside the image, stay (torchvision).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        preprocess: Recipe[Preprocess] = Recipe(Preprocess),
        backbone: Recipe[Backbone],
        neck: Recipe[Neck] | None,
        head: Recipe[DenseHead],
        keep_empty: bool = False,
    ):
        super().__init__(num_classes, preprocess, backbone, neck)
        self.head = head(self.output_shape, num_classes)
        self.keep_empty = keep_empty
        self.set_layout()

    def loss(self, samples: list[Sample]) -> Losses:
        """See ``MetaArch.loss``.

        Raises:
            ValueError: a sample without a target.
        """
        images, targets = self.preprocess.with_targets(samples)
        return self.head.loss(images, self.features(images), targets)

    def outputs(self, images: ImageList, features: Features) -> Outputs:
        """See ``FeatureModel.outputs``."""
        return Outputs(self.head.predict(images, features))

    def prediction(self, instances: Instances, original_size: tuple[int, int]) -> Prediction:
        """See ``FeatureModel.prediction``."""
        moved = to_original_size(instances, original_size, keep_empty=self.keep_empty)
        return Prediction(moved, num_cut=instances.info.num_cut)

    @torch.no_grad()
    def detections(self, samples: list[Sample]) -> list[Instances]:
        """See ``FeatureModel.detections``."""
        images = self.preprocess(samples)
        return self.head.predict(images, self.features(images))

    def choose(self, candidates: Instances) -> Instances:
        """See ``FeatureModel.choose``."""
        return self.head.choose(candidates)
