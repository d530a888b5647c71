"""A detector with fixed counts, of the same parts as the model: what is exported."""

import copy

import torch
from torch import Tensor, nn

from detkit.export.static.boxes import Batch, Rows, best, chosen, clipped, finite, rows_of, static_anchors
from detkit.export.static.dispatch import no_static_form, static_form
from detkit.export.static.heads import static_described, static_detections, static_proposals
from detkit.export.static.layers import with_static_layers
from detkit.export.static.nms import NOTHING
from detkit.export.static.poolers import with_static_poolers
from detkit.inference.folding import fold_norms
from detkit.modeling.dense_heads import RetinaNetHead
from detkit.modeling.interfaces import DenseHead, Features
from detkit.modeling.meta_archs import DenseDetector, GeneralizedRCNN, PanopticFPN, SemanticSegmentor
from detkit.modeling.meta_archs.features import FeatureModel


class StaticDetector(nn.Module):
    """The model's ``predict`` from the normalised batch to what the heads say, with fixed counts.

    Norms are folded into convolutions. The model stays as it is.

    Args:
        model: in evaluation mode.

    Raises:
        ConfigError: a part has no static form.
    """

    def __init__(self, model: FeatureModel):
        super().__init__()
        self.model = copy.deepcopy(model).float().eval().requires_grad_(False)
        fold_norms(self.model)
        with_static_poolers(self.model)
        with_static_layers(self.model)
        self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, images: Tensor, regions: Tensor) -> dict[str, Tensor]:
        """What the heads say of each image.

        Args:
            images: ``(N, C, H, W)`` float32: normalised and padded.
            regions: ``(N, 4)`` float32: x1, y1, x2, y2 of the part of each that is no padding.

        Returns:
            ``boxes`` (N, D, 4) in pixels of ``images``, ``scores`` (N, D), best first, -1 for a row without a
            detection, ``classes`` (N, D) int64; and where the model has such heads ``mask_probs`` (N, D, M, M),
            ``keypoint_maps`` (N, D, P, S, S) logits, ``semantic`` (N, K, H/s, W/s) logits.
        """
        features = self.model.backbone(images)
        if self.model.neck is not None:
            features = self.model.neck(features)
        return static_outputs(self.model, Batch(images, regions), features)


@static_form("outputs", "features")
def static_outputs(model: FeatureModel, batch: Batch, features: Features) -> dict[str, Tensor]:
    """What the heads of a meta-architecture say; see ``StaticDetector.forward``. Register one of your own here.

    Raises:
        ConfigError: there is no static form of it.
    """
    raise no_static_form(model, "static_outputs")


@static_outputs.register(GeneralizedRCNN)
def _(model: GeneralizedRCNN, batch: Batch, features: Features) -> dict[str, Tensor]:
    proposals = static_proposals(model.proposal_generator, batch, features)
    found = static_detections(model.roi_heads, batch, features, proposals)
    return {**_named(found), **static_described(model.roi_heads, features, found)}


@static_outputs.register(PanopticFPN)
def _(model: PanopticFPN, batch: Batch, features: Features) -> dict[str, Tensor]:
    found: dict[str, Tensor] = static_outputs.dispatch(GeneralizedRCNN)(model, batch, features)
    return {**found, "semantic": model.semantic_head.predict(features)}


@static_outputs.register(SemanticSegmentor)
def _(model: SemanticSegmentor, batch: Batch, features: Features) -> dict[str, Tensor]:
    return {"semantic": model.semantic_head.predict(features)}


@static_outputs.register(DenseDetector)
def _(model: DenseDetector, batch: Batch, features: Features) -> dict[str, Tensor]:
    return _named(static_dense(model.head, batch, features))


@static_form("predict", "predictions", "choose", "_candidates")
def static_dense(head: DenseHead, batch: Batch, features: Features) -> Rows:
    """The detections of a dense head. Register one of your own here.

    Raises:
        ConfigError: there is no static form of it.
    """
    raise no_static_form(head, "static_dense")


@static_dense.register(RetinaNetHead)
def _(head: RetinaNetHead, batch: Batch, features: Features) -> Rows:
    maps = [features[name] for name in head.in_features]
    anchors, levels = static_anchors(head.anchor_generator, maps, batch.size), head(maps)
    found, num = [], head.pre_nms_topk
    for level, own in enumerate(anchors):
        predictions = {name: values[level].float() for name, values in levels.items()}
        flat = head.scores({name: values.flatten(0, 1) for name, values in predictions.items()})
        scores = flat.reshape(batch.images.shape[0], -1)
        scores, columns = best(scores.masked_fill(~(scores > head.score_thresh), NOTHING), num)
        cells, classes = columns // head.num_classes, columns % head.num_classes
        deltas = rows_of(predictions["deltas"], cells)
        boxes = head.box_coder.decode(own[cells.flatten()], deltas.flatten(0, 1)).unflatten(0, (-1, num))
        dropped = ~finite(boxes) | (scores == NOTHING)
        found.append((boxes.masked_fill(dropped[..., None], 0.0), scores.masked_fill(dropped, NOTHING), classes))
    boxes, scores, classes = (torch.cat(parts, dim=1) for parts in zip(*found))
    boxes = clipped(boxes, batch.regions) if head.clip_boxes else boxes
    return chosen(Rows(boxes, scores, classes), head.nms, head.num_classes, head.nms_thresh, head.max_detections)


def _named(found: Rows) -> dict[str, Tensor]:
    assert found.classes is not None
    scores = found.scores.masked_fill(found.scores == NOTHING, -1.0)
    return {"boxes": found.boxes, "scores": scores, "classes": found.classes}
