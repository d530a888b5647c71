"""SemanticSegmentor: the class of each pixel, without objects."""

from typing import Annotated

from torch import Tensor

from detkit.config import Length, Recipe
from detkit.modeling.interfaces import META_ARCHS, Backbone, Features, Neck, SemanticHead
from detkit.modeling.meta_archs.features import FeatureModel, Outputs
from detkit.modeling.preprocess import Preprocess
from detkit.modeling.semantic import batched_maps, original_logits
from detkit.registry import ConfigError
from detkit.structures import ImageList, Losses, Prediction, Sample

SemanticNames = Annotated[tuple[str, ...], Length(2)] | None
"""The classes of a semantic map; null: those of the training data."""


@META_ARCHS.register()
class SemanticSegmentor(FeatureModel):
    """Backbone, neck and a semantic head, such as Semantic FPN (Kirillov et al. 2019, arXiv:1901.02446).

    Predictions have a ``semantic`` map alone.

    Args:
        preprocess: samples to a batch of images.
        backbone: image to feature maps.
        neck: feature maps to feature maps; null for none.
        semantic_head: feature maps to the class of each pixel.
        semantic_names: the classes of the semantic map; null: those of the training data.

    Raises:
        ConfigError: no classes of the semantic map.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        preprocess: Recipe[Preprocess] = Recipe(Preprocess),
        backbone: Recipe[Backbone],
        neck: Recipe[Neck] | None,
        semantic_head: Recipe[SemanticHead],
        semantic_names: SemanticNames = None,
    ):
        super().__init__(num_classes, preprocess, backbone, neck)
        self.semantic_names = checked_names(semantic_names)
        self.semantic_head = semantic_head(self.output_shape, len(self.semantic_names))
        self.set_layout()

    def loss(self, samples: list[Sample]) -> Losses:
        """See ``MetaArch.loss``. Raises ValueError for a sample without a semantic map."""
        images = self.preprocess(samples, training=True)
        maps = batched_maps(samples, images, len(self.semantic_names))
        return self.semantic_head.loss(self.features(images), maps)

    def outputs(self, images: ImageList, features: Features) -> Outputs:
        """See ``FeatureModel.outputs``."""
        return Outputs(semantic=self.semantic_logits(features))

    def semantic_logits(self, features: Features) -> Tensor:
        """See ``FeatureModel.semantic_logits``."""
        return self.semantic_head.predict(features)

    def predictions(self, outputs: Outputs, images: ImageList, samples: list[Sample]) -> list[Prediction]:
        """See ``FeatureModel.predictions``."""
        assert outputs.semantic is not None
        maps = original_logits(outputs.semantic, images, samples)
        return [Prediction(semantic=logits.argmax(0)) for logits in maps]


def checked_names(names: SemanticNames) -> tuple[str, ...]:
    """The classes of a semantic map. Raises ConfigError for none, or more than a map of 8 bits has values for."""
    if names is None or not 2 <= len(names) <= 255:
        what = "no names of the classes" if not names else f"{len(names)} classes; expected 2 to 255"
        raise ConfigError(
            f"model.semantic_names: {what} of the semantic map; list them, or take data that have semantic maps, such "
            "as CocoPanoptic"
        )
    return names
