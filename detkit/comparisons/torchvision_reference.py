"""torchvision's detectors, and what each of their stages gives, in detkit's words."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import detection

from detkit.checkpoint import Checkpoint, export_state
from detkit.checkpoint.formats import import_foreign
from detkit.comparisons.hooks import recorded, replaced
from detkit.comparisons.stages import EVERYTHING
from detkit.registry import ConfigError, DataError
from detkit.structures import BitMasks, Boxes, ImageList, Instances
from detkit.zoo import find

TORCHVISION_MODELS = {
    "fasterrcnn_resnet50_fpn": "faster_rcnn_R_50_FPN",
    "fasterrcnn_resnet50_fpn_v2": "faster_rcnn_R_50_FPN_v2",
    "fasterrcnn_mobilenet_v3_large_fpn": "faster_rcnn_mobilenet_v3_large_FPN",
    "fasterrcnn_mobilenet_v3_large_320_fpn": "faster_rcnn_mobilenet_v3_large_320_FPN",
    "maskrcnn_resnet50_fpn": "mask_rcnn_R_50_FPN",
    "maskrcnn_resnet50_fpn_v2": "mask_rcnn_R_50_FPN_v2",
}
"""torchvision's name of a model -> the config of ``configs/torchvision`` that is the same model."""

NUM_COCO_CLASSES = 90
"""Of torchvision's COCO models: the category ids 1 to 90."""

LOSSES = {
    "loss_objectness": "loss_rpn_cls",
    "loss_rpn_box_reg": "loss_rpn_loc",
    "loss_classifier": "loss_cls",
    "loss_box_reg": "loss_box_reg",
    "loss_mask": "loss_mask",
}
"""torchvision's name of a loss -> detkit's."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is set alike on both sides; None leaves it to torchvision's default and to the config.

    Args:
        short_edge: the shorter side that images are resized to, in pixels.
        max_size: the longer side's limit.
        score_thresh: detections below this score are dropped.
        norm_eps: added to the variance in the backbone's norms; torchvision's COCO_V1 weights of ResNets want 0.
    """

    short_edge: int | None = None
    max_size: int | None = None
    score_thresh: float | None = None
    norm_eps: float | None = None

    def overrides(self) -> list[str]:
        """For detkit's config."""
        values = {
            "model.preprocess.resize.short_edge": None if self.short_edge is None else [self.short_edge],
            "model.preprocess.resize.max_size": self.max_size,
            "model.roi_heads.box_head.detection.score_thresh": self.score_thresh,
            "model.backbone.norm.eps": self.norm_eps,
        }
        return [f"{path}={value}" for path, value in values.items() if value is not None]

    def arguments(self) -> dict[str, Any]:
        """For torchvision's function."""
        values = {"min_size": self.short_edge, "max_size": self.max_size, "box_score_thresh": self.score_thresh}
        return {name: value for name, value in values.items() if value is not None}


def published_norm_eps(name: str, file: str | Path) -> float | None:
    """0 for the file of torchvision's own weights that torchvision itself runs with an epsilon of 0, else None."""
    if name not in ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"):
        return None
    published = models.get_model_weights(name)["COCO_V1"].url
    row = find(str(file))
    return 0.0 if Path(row.addresses[0] if row else file).name == published.rsplit("/", 1)[-1] else None


def build_torchvision(name: str, num_classes: int, settings: Settings = Settings()) -> nn.Module:
    """torchvision's model, untrained, in evaluation mode.

    Args:
        name: a key of ``TORCHVISION_MODELS``.
        num_classes: K, without the background.
        settings: see there.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in TORCHVISION_MODELS:
        raise ConfigError(f"reference: no model torchvision:{name}; there are {', '.join(TORCHVISION_MODELS)}")
    build = getattr(detection, name)
    model = build(weights=None, weights_backbone=None, num_classes=num_classes + 1, **settings.arguments())
    if settings.norm_eps is not None:
        for module in model.backbone.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = settings.norm_eps
    return model.eval()


def num_classes_of(checkpoint: Checkpoint) -> int:
    """K of torchvision's or of detkit's weights, from their shapes. Raises DataError."""
    scores = import_foreign(checkpoint.model, {}).model.get("roi_heads.box_head.cls_score.weight")
    if scores is None or len(scores) < 2:
        raise DataError(f"{checkpoint.source}: has no class scores, so it is not a detector's weights")
    return len(scores) - 1


def load_torchvision(reference: nn.Module, checkpoint: Checkpoint) -> None:
    """Loads torchvision's own weights, or detkit's written in its layout.

    Raises:
        DataError: weights of another model or of another framework.
    """
    origin = import_foreign(checkpoint.model, {}).format
    if origin not in ("", "torchvision"):
        raise DataError(f"{checkpoint.source}: holds weights of {origin}, which torchvision's models cannot take")
    try:
        state = checkpoint.model if origin else export_state(checkpoint.model, "torchvision")
        reference.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        words = " ".join(str(error).split())
        raise DataError(
            f"{checkpoint.source}: torchvision's {type(reference).__name__} does not take these weights: {words[:500]}"
        ) from error


@dataclasses.dataclass(frozen=True)
class Trace:
    """What torchvision's first stages gave for a batch, in detkit's words.

    Args:
        images: the network's input.
        features: its maps, finest first.
        proposals: ``boxes`` of each image.
    """

    images: ImageList
    features: list[Tensor]
    proposals: list[Instances]


@dataclasses.dataclass(frozen=True)
class DetectionTrace(Trace):
    """And what followed in evaluation.

    Args:
        logits: ``(R, K + 1)`` class logits of all proposals, background last.
        deltas: ``(R, 4K)``.
        candidates: ``boxes``, ``scores``, ``classes`` that detections are chosen from, before suppression, in pixels of
            the input.
        detections: the same of the detections.
        outputs: the same in pixels of the images, with ``masks`` (bool) from a model that has them.
    """

    logits: Tensor
    deltas: Tensor
    candidates: list[Instances]
    detections: list[Instances]
    outputs: list[Instances]


@dataclasses.dataclass(frozen=True)
class LossTrace(Trace):
    """And what followed in training.

    Args:
        targets: in pixels of the input.
        losses: by detkit's names.
    """

    targets: list[Instances]
    losses: dict[str, float]


@torch.no_grad()
def trace_detections(reference: nn.Module, images: Sequence[Tensor]) -> DetectionTrace:
    """Runs torchvision's model on ``(3, H, W)`` images in 0..1 and keeps what passes between its stages."""
    with recorded({name: reference.get_submodule(name) for name in STAGES}) as outputs:
        results = reference(list(images))
    first = _first_stages(outputs)
    sizes = first["images"].image_sizes
    logits, deltas = outputs["roi_heads.box_predictor"][0]
    return DetectionTrace(
        **first,
        logits=torch.cat([logits[:, 1:], logits[:, :1]], dim=1),
        deltas=deltas[:, 4:],
        candidates=_candidates(reference.roi_heads, logits, deltas, outputs["rpn"][0][0], sizes),
        detections=[_detections(d, size) for d, size in zip(outputs["roi_heads"][0][0], sizes)],
        outputs=[_detections(r, (i.shape[1], i.shape[2]), masks=True) for r, i in zip(results, images)],
    )


@torch.no_grad()
def trace_losses(reference: nn.Module, images: Sequence[Tensor], targets: Sequence[Instances]) -> LossTrace:
    """The same in training, but norms use their running statistics, and no anchor and no proposal is left out.

    Args:
        reference: of ``build_torchvision``.
        images: ``(3, H, W)`` in 0..1.
        targets: ``boxes``, ``classes`` and bitmaps ``masks``, in pixels of the images.
    """
    with recorded({name: reference.get_submodule(name) for name in STAGES}) as outputs, _training(reference):
        results = reference(list(images), [_their_target(target) for target in targets])
    first, moved = _first_stages(outputs), outputs["transform"][0][1]
    return LossTrace(
        **first,
        targets=[_our_target(target, size) for target, size in zip(moved, first["images"].image_sizes)],
        losses={ours: float(results[name]) for name, ours in LOSSES.items() if name in results},
    )


def _first_stages(outputs: Mapping[str, Any]) -> dict[str, Any]:
    batch, _ = outputs["transform"][0]
    sizes = [(int(height), int(width)) for height, width in batch.image_sizes]
    proposals = [Instances(size, boxes=Boxes(boxes)) for size, boxes in zip(sizes, outputs["rpn"][0][0])]
    features = list(outputs["backbone"][0].values())
    return {"images": ImageList(batch.tensors, sizes), "features": features, "proposals": proposals}


def _detections(found: Mapping[str, Tensor], size: tuple[int, int], masks: bool = False) -> Instances:
    instances = Instances(size, boxes=Boxes(found["boxes"]), scores=found["scores"], classes=found["labels"] - 1)
    if not masks or "masks" not in found:
        return instances
    return instances.with_fields(masks=BitMasks(found["masks"][:, 0] >= 0.5))


def _candidates(
    heads: Any, logits: Tensor, deltas: Tensor, proposals: list[Tensor], sizes: Sequence[tuple[int, int]]
) -> list[Instances]:
    counts = [len(boxes) for boxes in proposals]
    decoded, probs_per_image = heads.box_coder.decode(deltas, proposals).split(counts), logits.softmax(1).split(counts)
    candidates = []
    for boxes, probs, size in zip(decoded, probs_per_image, sizes):
        rows, labels = torch.nonzero(probs[:, 1:] > 0.99 * heads.score_thresh, as_tuple=True)
        chosen = Boxes(boxes[rows, labels + 1]).clip(size)
        candidates.append(Instances(size, boxes=chosen, scores=probs[rows, labels + 1], classes=labels))
    return candidates


def _their_target(target: Instances) -> dict[str, Tensor]:
    masks = {"masks": target.masks.tensor.to(torch.uint8)} if "masks" in target else {}
    return {"boxes": target.boxes.tensor.clone(), "labels": target.classes + 1, **masks}


def _our_target(target: Mapping[str, Tensor], size: tuple[int, int]) -> Instances:
    instances = Instances(size, boxes=Boxes(target["boxes"]), classes=target["labels"] - 1)
    return instances.with_fields(masks=BitMasks(target["masks"])) if "masks" in target else instances


STAGES = ("transform", "backbone", "rpn", "roi_heads.box_predictor", "roi_heads")


@contextmanager
def _training(reference: nn.Module) -> Iterator[None]:
    """Losses of all anchors and proposals instead of detections; norms and all else stay in evaluation mode."""
    with ExitStack() as stack:
        for part in map(reference.get_submodule, ("", "transform", "rpn", "roi_heads")):
            stack.enter_context(replaced(part, "training", True))
            if hasattr(part, "fg_bg_sampler"):
                stack.enter_context(replaced(part.fg_bg_sampler, "batch_size_per_image", EVERYTHING))
        yield
