"""What all detectors have: preprocessing, a backbone and a neck."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detkit.config import Recipe, built
from detkit.layers import ShapeSpec, guard_convolutions
from detkit.modeling.interfaces import Backbone, Features, MetaArch, Neck
from detkit.modeling.preprocess import Preprocess
from detkit.modeling.semantic import original_logits
from detkit.registry import ConfigError
from detkit.structures import ImageList, Instances, Prediction, Sample


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What the heads say of a batch, in the pixels of the network. A model without such a head has None there.

    Args:
        instances: of each image, as the heads give them: ``mask_probs`` are not yet pasted.
        semantic: ``(N, K, H/s, W/s)`` logits of the semantic map.
    """

    instances: list[Instances] | None = None
    semantic: Tensor | None = None


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
        self.output_shape = output_shape_of(self.backbone, "model.backbone")
        self.neck = None if neck is None else built("model.neck", neck, self.output_shape)
        if self.neck is not None:
            self.output_shape = output_shape_of(self.neck, "model.neck")
        self.preprocess.adapt_to(self.backbone, self.neck)

    def set_layout(self) -> None:
        """Brings the weights into the memory layout of the batches. Raises ConfigError for a layer without a shape."""
        check_shaped(self)
        guard_convolutions(self)
        self.to(memory_format=self.preprocess.memory_format)

    def features(self, images: ImageList) -> Features:
        """The maps that heads look at. Raises ConfigError where they are not as ``output_shape`` says."""
        features: Features = self.backbone(images.tensor)
        check_maps(features, self.backbone, "model.backbone", images.tensor)
        if self.neck is not None:
            features = self.neck(features)
            check_maps(features, self.neck, "model.neck", images.tensor)
        return features

    @torch.no_grad()
    def predict(self, samples: list[Sample]) -> list[Prediction]:
        """See ``MetaArch.predict``."""
        images = self.preprocess(samples)
        return self.predictions(self.outputs(images, self.features(images)), images, samples)

    def outputs(self, images: ImageList, features: Features) -> Outputs:
        """What the heads say at prediction. An exported program does the same (``detkit.export``)."""
        raise NotImplementedError

    def predictions(self, outputs: Outputs, images: ImageList, samples: list[Sample]) -> list[Prediction]:
        """The end of ``predict``: what the heads say of each image, in the pixels of ``sample.original_size``."""
        found = outputs.instances or []
        return [self.prediction(i, s.original_size) for i, s in zip(found, samples)]

    def detections(self, samples: list[Sample]) -> list[Instances]:
        """The first half of ``predict``, for what merges several views: ``boxes``, ``scores`` and ``classes`` alone, in
        the pixels of the network, whose ``valid_region`` is the image. A model without it has no such views."""
        raise NotImplementedError

    def choose(self, candidates: Instances) -> Instances:
        """The detections among those of several views of an image, best first."""
        raise NotImplementedError

    def described(self, samples: list[Sample], instances: list[Instances]) -> list[Instances]:
        """Instances as ``detections`` gives them, with what other heads than that of the boxes say: masks and so on."""
        return instances

    def semantic_logits(self, features: Features) -> Tensor | None:
        """``Outputs.semantic``; None for a model without a semantic map."""
        return None

    @torch.no_grad()
    def semantic_maps(self, samples: list[Sample]) -> Iterator[Tensor]:
        """``(K, height, width)`` logits of each image in its original pixels, for what merges several views; none for a
        model without a semantic map."""
        images = self.preprocess(samples)
        logits = self.semantic_logits(self.features(images))
        return iter(()) if logits is None else original_logits(logits, images, samples)

    def joined(self, prediction: Prediction, semantic: Tensor) -> Prediction:
        """A prediction of objects with the semantic map ``(H, W)``, and with what the model makes of both."""
        return dataclasses.replace(prediction, semantic=semantic)

    def prediction(self, instances: Instances, original_size: tuple[int, int]) -> Prediction:
        """Instances in the pixels of the network in those of the file."""
        raise NotImplementedError


def check_shaped(model: nn.Module) -> None:
    """Raises ConfigError for a layer whose weights get their shape from the first batch."""
    lazy = [name for name, value in model.named_parameters() if nn.parameter.is_lazy(value)]
    if lazy:
        raise ConfigError(
            f"model.{lazy[0]}: has no shape before a first forward pass (nn.LazyLinear and the like), so it can be"
            " neither optimised nor loaded; a part is told its input_shape, so build the layer from that"
        )


def output_shape_of(part: Backbone | Neck, path: str) -> dict[str, ShapeSpec]:
    """The maps that a part promises. Raises ConfigError where it does not say them as the interface wants."""
    shapes: Any = getattr(part, "output_shape", None)
    named = isinstance(shapes, dict) and all(isinstance(shape, ShapeSpec) for shape in shapes.values())
    if not shapes or not named:
        raise ConfigError(
            f"{path}: {type(part).__name__}.output_shape: expected the names of its maps, finest first, as"
            f" {{name: ShapeSpec(channels, stride)}}, got {shapes!r:.200}; its constructor sets it"
        )
    return dict(shapes)


def check_maps(features: Any, part: Backbone | Neck, path: str, images: Tensor) -> None:
    """Raises ConfigError where the maps of a batch ``(N, C, H, W)`` are not those that the part promises."""
    promised = part.output_shape
    if not isinstance(features, Mapping) or not promised.keys() <= features.keys():
        given = list(features) if isinstance(features, Mapping) else type(features).__name__
        raise ConfigError(
            f"{path}: {type(part).__name__}.forward: expected a map for each name in output_shape, as a dict with"
            f" {', '.join(promised)}, got {given}"
        )
    for name, shape in promised.items():
        found, wanted = features[name].shape, [side / shape.stride for side in images.shape[-2:]]
        near = all(abs(got - side) <= max(1, side / 4) for got, side in zip(found[-2:], wanted))  # padded or not
        if len(found) != 4 or found[1] != shape.channels or not near:
            raise ConfigError(
                f"{path}: {type(part).__name__}.output_shape: says that '{name}' has {shape.channels} channels and"
                f" stride {shape.stride}, but of images {tuple(images.shape)} it is {tuple(found)}"
            )
