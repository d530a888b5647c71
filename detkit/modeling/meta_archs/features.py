"""What all detectors have: preprocessing, a backbone and a neck."""

from detkit.config import Recipe, built
from detkit.layers import ShapeSpec
from detkit.modeling.interfaces import Backbone, Features, MetaArch, Neck
from detkit.modeling.preprocess import Preprocess
from detkit.structures import ImageList


class FeatureModel(MetaArch):
    """A model up to its feature maps. A subclass adds what looks at them, and then calls ``set_layout``.

    Args:
        preprocess: samples to a batch of images.
        backbone: image to feature maps.
        neck: feature maps to feature maps; None for none.

    Attributes:
        output_shape: the maps that ``features`` gives.

    Raises:
        ConfigError: a part cannot be built, or the neck does not take the backbone's maps.
    """

    def __init__(
        self, num_classes: int, preprocess: Recipe[Preprocess], backbone: Recipe[Backbone], neck: Recipe[Neck] | None
    ):
        super().__init__(num_classes)
        self.preprocess = built("model.preprocess", preprocess)
        self.backbone = built("model.backbone", backbone, ShapeSpec(channels=self.preprocess.num_channels))
        self.neck = None if neck is None else built("model.neck", neck, self.backbone.output_shape)
        self.preprocess.pad_for(self.backbone, self.neck)
        self.output_shape = self.backbone.output_shape if self.neck is None else self.neck.output_shape

    def set_layout(self) -> None:
        """Brings the weights into the memory layout of the batches."""
        self.to(memory_format=self.preprocess.memory_format)

    def features(self, images: ImageList) -> Features:
        """The maps that heads look at."""
        features = self.backbone(images.tensor)
        return features if self.neck is None else self.neck(features)
