"""Every role of a model and its contract. READ THIS FIRST; box_, image_ and map_interfaces.py hold some of them.

Runtime arguments (before ``*``) are passed by the parent; options (after ``*``) come from the config.
Letters: N images, C channels, H x W pixels, s stride, A anchors a location, R regions over all images, K classes.
Classes are 0..K-1, background is K, ignore is -1. Boxes are xyxy in absolute pixels of the padded batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from detkit.config import broken_contract
from detkit.layers import ShapeSpec
from detkit.modeling.box_interfaces import ANCHOR_GENERATORS as ANCHOR_GENERATORS
from detkit.modeling.box_interfaces import ASSIGNERS as ASSIGNERS
from detkit.modeling.box_interfaces import BOX_CODERS as BOX_CODERS
from detkit.modeling.box_interfaces import BOX_LOSSES as BOX_LOSSES
from detkit.modeling.box_interfaces import CLASS_LOSSES as CLASS_LOSSES
from detkit.modeling.box_interfaces import NORMALISERS as NORMALISERS
from detkit.modeling.box_interfaces import SUPPRESSIONS as SUPPRESSIONS
from detkit.modeling.box_interfaces import AnchorGenerator as AnchorGenerator
from detkit.modeling.box_interfaces import Assigner as Assigner
from detkit.modeling.box_interfaces import BoxCoder as BoxCoder
from detkit.modeling.box_interfaces import BoxLoss as BoxLoss
from detkit.modeling.box_interfaces import ClassLoss as ClassLoss
from detkit.modeling.box_interfaces import Normaliser as Normaliser
from detkit.modeling.box_interfaces import Suppression as Suppression
from detkit.modeling.image_interfaces import INPUT_RESIZES as INPUT_RESIZES
from detkit.modeling.image_interfaces import MASK_PASTERS as MASK_PASTERS
from detkit.modeling.image_interfaces import InputResize as InputResize
from detkit.modeling.image_interfaces import MaskPaster as MaskPaster
from detkit.modeling.map_interfaces import NECKS as NECKS
from detkit.modeling.map_interfaces import RPN_HEADS as RPN_HEADS
from detkit.modeling.map_interfaces import SEMANTIC_HEADS as SEMANTIC_HEADS
from detkit.modeling.map_interfaces import TOP_BLOCKS as TOP_BLOCKS
from detkit.modeling.map_interfaces import Features as Features
from detkit.modeling.map_interfaces import Neck as Neck
from detkit.modeling.map_interfaces import RPNHead as RPNHead
from detkit.modeling.map_interfaces import SemanticHead as SemanticHead
from detkit.modeling.map_interfaces import TopBlock as TopBlock
from detkit.registry import ConfigError, Registry, required
from detkit.structures import COCO_PERSON, Boxes, ImageList, Instances, KeypointSpec, Losses, Prediction, Sample


class MetaArch(nn.Module):
    """A whole detector. ``self.training`` is read here and nowhere else: ``forward`` calls ``loss`` or ``predict``.
    Only running statistics heed it, too: as those of a batch norm, they stay as they are in evaluation mode.

    Attributes:
        num_classes: K.
        class_names: K names, set when the model is loaded or trained; None: not known.
        category_ids: the ids that the classes have in the data's files, for files of results; None: not known.
        semantic_names: the classes of the semantic map that it predicts, where it predicts one.
    """

    semantic_names: tuple[str, ...] = ()

    def __init__(self, num_classes: int):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.class_names: tuple[str, ...] | None = None
        self.category_ids: tuple[int, ...] | None = None

    @property
    def keypoints(self) -> KeypointSpec | None:
        """What the keypoints are that the instances get; None for a model without a keypoint head."""
        return next((part.keypoints for part in self.modules() if isinstance(part, KeypointHead)), None)

    def forward(self, samples: list[Sample]) -> "Losses | list[Prediction]":
        """``Losses`` in training mode, one ``Prediction`` an image in evaluation mode. ConfigError: neither."""
        given: Any = self.loss(samples) if self.training else self.predict(samples)
        found = [isinstance(p, Prediction) for p in given] if isinstance(given, list | tuple) else []
        if not (isinstance(given, Losses) if self.training else all(found) and len(found) == len(samples)):
            words = "loss: expected Losses" if self.training else "predict: expected a Prediction of each image"
            raise ConfigError(f"model: {type(self).__name__}.{words}, got {given!r:.200}")
        return given

    def loss(self, samples: list[Sample]) -> Losses:
        """The losses of a batch with targets."""
        raise NotImplementedError

    def predict(self, samples: list[Sample]) -> list[Prediction]:
        """What the model says of each image, in the pixels of ``sample.original_size``."""
        raise NotImplementedError


class Backbone(nn.Module):
    """Image to feature maps. ``output_shape`` names them, finest first. An option ``weights``, where there is one, is a
    file of weights to start from; it is set aside where a checkpoint of the whole model is loaded."""

    output_shape: dict[str, ShapeSpec]

    def __init__(self, input_shape: ShapeSpec):
        super().__init__()

    @required
    def forward(self, images: Tensor) -> Features:
        """``(N, C, H, W)`` -> name -> ``(N, C', H/s, W/s)``."""
        raise NotImplementedError

    @property
    def size_divisibility(self) -> int:
        """Images are padded so that both sides are multiples of this."""
        return max(spec.stride for spec in self.output_shape.values())

    @property
    def square_size(self) -> int | None:
        """Images are padded to a square of this side, for a network that takes one size alone; None for any size."""
        return None

    @property
    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation of the pixels (RGB, 0..255) that its weights were trained on, which ``Preprocess`` takes
        where a config has ``pixel_mean: null``; None where the backbone does not know."""
        return None

    @classmethod
    def strides(cls, options: Mapping[str, Any]) -> dict[str, int] | None:
        """The maps that these options give, with their strides, finest first: asked before anything is built. None
        where only a backbone that is built knows them."""
        return None

    @classmethod
    def weights_source(cls, options: Mapping[str, Any]) -> str | None:
        """The file or name that the option ``weights`` stands for, which is fetched before data are read; or None."""
        return options.get("weights")

    def layers(self) -> list[list[str]]:
        """Names of submodules and parameters by depth, from the image on; what none covers is in the first layer.
        By default each child with parameters is a layer, in the order in which they were made."""
        return [[name] for name, child in self.named_children() if any(True for _ in child.parameters())]

    def added_layers(self) -> list[str]:
        """Names of submodules that networks for classification have not, so that no weights of theirs fill them. They
        learn at the full rate where that of ``layers`` decays."""
        return []


class ProposalGenerator(nn.Module):
    """Features to class-agnostic proposals: one ``Instances(boxes, objectness)`` an image, best first."""

    def __init__(self, input_shape: dict[str, ShapeSpec]):
        super().__init__()

    @required
    def loss(self, images: ImageList, features: Features, targets: list[Instances]) -> tuple[list[Instances], Losses]:
        """Proposals (detached) and losses."""
        raise NotImplementedError

    @required
    def predict(self, images: ImageList, features: Features) -> list[Instances]:
        """Proposals."""
        raise NotImplementedError


class RoIPooler(nn.Module):
    """Boxes to fixed-size features. ``output_shape`` is their shape."""

    output_shape: ShapeSpec

    def __init__(self, input_shape: dict[str, ShapeSpec]):
        super().__init__()

    @required
    def forward(self, features: Features, boxes: Sequence[Boxes]) -> Tensor:
        """``(R, C, s, s)``, in the order of the boxes: image by image, then as given."""
        raise NotImplementedError


class RegionPart(nn.Module):
    """What works on regions of the image: box head, instance heads, the RoI heads that they belong to, a dense head."""

    def __init__(self, input_shape: dict[str, ShapeSpec], num_classes: int):
        super().__init__()

    def choose(self, candidates: Instances) -> Instances:
        """The detections among ``Instances(boxes, scores, classes)`` of an image, best first."""
        raise NotImplementedError


class BoxHead(RegionPart):
    """Classifies and refines proposals. Owns its pooler. ``loss`` and ``predict`` are made of five verbs; the first
    gives what only the head itself reads, and the others take it."""

    def predictions(self, features: Features, boxes: list[Boxes]) -> Any:
        """What the head says of each box of each image, for example logits and deltas."""
        raise NotImplementedError

    def losses(self, predictions: Any, proposals: list[Instances]) -> Losses:
        """``proposals`` are sampled: ``boxes``, ``classes`` (K is background), ``gt_boxes``."""
        raise NotImplementedError

    def boxes(self, predictions: Any, proposals: list[Instances], clip: bool = True) -> list[Boxes]:
        """The refined box of each proposal, without gradients: what a next stage starts from. ``clip``: cut to the
        image's valid region."""
        raise NotImplementedError

    def scores(self, predictions: Any) -> Tensor:
        """``(R, K)`` in 0..1, or ``(R, K + 1)`` with the background's last; what a cascade takes the mean of."""
        raise NotImplementedError

    def detections(self, predictions: Any, proposals: list[Instances], scores: Tensor | None = None) -> list[Instances]:
        """New ``Instances(boxes, scores, classes)``, best first; ``scores`` stand for the head's own."""
        raise NotImplementedError

    def loss(self, features: Features, proposals: list[Instances]) -> Losses:
        """The losses of sampled proposals."""
        return self.losses(self.predictions(features, [p.boxes for p in proposals]), proposals)

    def predict(self, features: Features, proposals: list[Instances]) -> list[Instances]:
        """The detections among the proposals."""
        return self.detections(self.predictions(features, [p.boxes for p in proposals]), proposals)


class InstanceHead(RegionPart):
    """Gives instances a field: learns from the foreground, works on the box head's detections. Owns its pooler."""

    reads_maps: ClassVar[bool] = False
    """Whether it looks at maps of the image beside what its pooler gives."""

    def loss(self, features: Features, proposals: list[Instances]) -> Losses:
        """``proposals`` are foreground: ``boxes``, ``classes``, and ``gt_boxes``, ``gt_masks``, ... of the target."""
        raise NotImplementedError

    def predict(self, features: Features, instances: list[Instances]) -> list[Instances]:
        """Detections -> new ``Instances`` that have the field too."""
        raise NotImplementedError


class MaskHead(InstanceHead):
    """Gives instances ``mask_probs`` (R, M, M) in 0..1, to be pasted at the boxes."""

    def mask_probs(self, features: Features, boxes: list[Boxes], classes: Tensor) -> Tensor:
        """``(R, M, M)`` for the boxes of each image, R in all, and their classes ``(R,)``."""
        raise NotImplementedError

    def predict(self, features: Features, instances: list[Instances]) -> list[Instances]:
        """See ``InstanceHead.predict``."""
        classes = torch.cat([i.classes for i in instances])
        probs = self.mask_probs(features, [i.boxes for i in instances], classes)
        if probs.ndim != 3 or len(probs) != len(classes):
            words = f"a mask of each box, ({len(classes)}, M, M), got {tuple(probs.shape)}"
            raise broken_contract(self, f"expected of mask_probs {words}")
        return [i.with_fields(mask_probs=p) for i, p in zip(instances, probs.split([len(i) for i in instances]))]


class KeypointHead(InstanceHead):
    """Gives instances ``Keypoints`` (R, P, 3): x, y, score. What they are is in ``keypoints``: where that option is
    None the experiment gives it the training data's, and where nothing is known they are those of COCO's persons."""

    def __init__(self, input_shape: dict[str, ShapeSpec], num_classes: int, *, keypoints: KeypointSpec | None = None):
        super().__init__(input_shape, num_classes)
        self.keypoints = keypoints or COCO_PERSON


class RoIHeads(RegionPart):
    """Everything that happens to a region: labelling and sampling in training, then each head."""

    def loss(self, features: Features, proposals: list[Instances], targets: list[Instances]) -> Losses:
        """Samples proposals against the targets and sums up the heads' losses."""
        raise NotImplementedError

    def predict(self, features: Features, proposals: list[Instances]) -> list[Instances]:
        """Detections with the fields that the heads give."""
        raise NotImplementedError

    def box_detections(self, features: Features, proposals: list[Instances]) -> list[Instances]:
        """The detections, on which the other heads work; with ``choose`` and ``described`` for several views."""
        raise NotImplementedError

    def described(self, features: Features, instances: list[Instances]) -> list[Instances]:
        """Detections with the fields that the other heads give."""
        raise NotImplementedError


class DenseHead(RegionPart):
    """All of a one-stage detector behind its maps: classifies and refines a box at every cell."""

    def loss(self, images: ImageList, features: Features, targets: list[Instances]) -> Losses:
        """The losses over all cells of all maps."""
        raise NotImplementedError

    def predict(self, images: ImageList, features: Features) -> list[Instances]:
        """``Instances(boxes, scores, classes)`` of each image, best first."""
        raise NotImplementedError


META_ARCHS: Registry[MetaArch] = Registry("meta-architecture", MetaArch)
BACKBONES: Registry[Backbone] = Registry("backbone", Backbone)
PROPOSAL_GENERATORS: Registry[ProposalGenerator] = Registry("proposal generator", ProposalGenerator)
ROI_POOLERS: Registry[RoIPooler] = Registry("RoI pooler", RoIPooler)
BOX_HEADS: Registry[BoxHead] = Registry("box head", BoxHead)
MASK_HEADS: Registry[MaskHead] = Registry("mask head", MaskHead)
KEYPOINT_HEADS: Registry[KeypointHead] = Registry("keypoint head", KeypointHead)
ROI_HEADS: Registry[RoIHeads] = Registry("RoI heads", RoIHeads)
DENSE_HEADS: Registry[DenseHead] = Registry("dense head", DenseHead)
