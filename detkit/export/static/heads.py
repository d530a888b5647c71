"""Two-stage detectors with fixed counts. N images, P proposals and D detections in each, K classes."""

import torch
from torch import Tensor
from torch.nn import functional as F

from detkit.export.static.boxes import (
    Batch,
    Rows,
    best,
    chosen,
    clipped,
    finite,
    larger,
    rows_of,
    static_anchors,
)
from detkit.export.static.dispatch import no_static_form, static_form
from detkit.export.static.nms import NOTHING, nms_mask
from detkit.modeling.interfaces import BoxHead, Features, InstanceHead, MaskHead, ProposalGenerator, RoIHeads
from detkit.modeling.proposals import RPN, MatterportRPN
from detkit.modeling.roi_heads import (
    BoxPredictions,
    CascadeRoIHeads,
    ConvUpsampleKeypointHead,
    FastRCNNHead,
    MatterportDetections,
    Res5RoIHeads,
    StandardRoIHeads,
)

MAX_CANDIDATES = 4096
"""Scored boxes of an image that suppression chooses among: the best of those above the score threshold.

An ordinary model has no such limit. Greedy NMS gives what it gives without it wherever there are no more boxes above
the threshold, or where it leaves ``max_detections`` of these, for a box suppresses no better one; else the worst
detections are missing. In ONNX Runtime on one core this step takes 1 to 2 ms an image with 300 boxes above the
threshold, for 80 as for 1203 classes, and 40 ms where all 4096 are; with a limit of 16384 it could take 0.3 s.
"""


@static_form("predict", "scores", "select", "_proposals", "best", "region")
def static_proposals(generator: ProposalGenerator, batch: Batch, features: Features) -> Rows:
    """The proposals of each image, best first. Register a proposal generator of your own here.

    Raises:
        ConfigError: there is no static form of it.
    """
    raise no_static_form(generator, "static_proposals")


@static_proposals.register(RPN)
def _(rpn: RPN, batch: Batch, features: Features) -> Rows:
    maps, logits, deltas = rpn.head_outputs(features)
    anchors = static_anchors(rpn.anchor_generator, maps, batch.size)
    return _proposals(rpn, batch.regions, anchors, logits, deltas)


@static_proposals.register(MatterportRPN)
def _(rpn: MatterportRPN, batch: Batch, features: Features) -> Rows:
    maps, logits, deltas = rpn.head_outputs(features)
    anchors = torch.cat(static_anchors(rpn.anchor_generator, maps, batch.size))
    height, width = batch.size
    padded = torch.zeros_like(batch.regions) + torch.tensor([0, 0, 1, 0]) * width + torch.tensor([0, 0, 0, 1]) * height
    return _proposals(rpn, padded, [anchors], [torch.cat(logits, dim=1)], [torch.cat(deltas, dim=1)])


def _proposals(rpn: RPN, regions: Tensor, anchors: list[Tensor], logits: list[Tensor], deltas: list[Tensor]) -> Rows:
    """``RPN.select`` with fixed counts."""
    selection, levels = rpn.selection, []
    num = selection.pre_nms_topk_test
    for anchor, logit, delta in zip(anchors, logits, deltas):
        scores, columns = best(logit.float(), num)
        moves = rows_of(delta, columns)
        boxes = rpn.box_coder.decode(anchor[columns.flatten()], moves.flatten(0, 1)).unflatten(0, (-1, num))
        wanted = finite(boxes) & (scores.abs() < torch.inf)
        boxes = clipped(boxes.masked_fill(~wanted[..., None], 0.0), regions)
        if selection.score_thresh > 0:
            wanted = wanted & (scores.sigmoid() >= selection.score_thresh)
        if selection.min_size is not None:
            wanted = wanted & larger(boxes, selection.min_size)
        levels.append((boxes, rpn.ranks(scores).masked_fill(~wanted, NOTHING)))
    boxes = torch.stack([b for b, _ in levels], dim=1)  # (N, L, num, 4)
    ranks = torch.stack([r for _, r in levels], dim=1)
    kept = nms_mask(boxes.flatten(0, 1), ranks.flatten(0, 1), selection.nms_thresh).view_as(ranks)
    scores, columns = best(ranks.masked_fill(~kept, NOTHING).flatten(1), selection.post_nms_topk_test)
    return Rows(rows_of(boxes.flatten(1, 2), columns).masked_fill((scores == NOTHING)[..., None], 0.0), scores)


@static_form("detections", "candidates")
def static_candidates(head: BoxHead, boxes: Tensor, probs: Tensor, proposals: Rows, regions: Tensor) -> Rows:
    """The scored boxes among which NMS will choose: ``FastRCNNHead.candidates`` with fixed counts.

    Args:
        head: the box head.
        boxes: ``(N, P, B, 4)`` the refined boxes of each proposal, one or one a class.
        probs: ``(N, P, K)`` or ``(N, P, K + 1)``.
        proposals: of each image.
        regions: ``(N, 4)`` what boxes are cut to.

    Raises:
        ConfigError: there is no static form of it.
    """
    raise no_static_form(head, "static_candidates")


@static_candidates.register(FastRCNNHead)
def _(head: FastRCNNHead, boxes: Tensor, probs: Tensor, proposals: Rows, regions: Tensor) -> Rows:
    num_classes, detection = head.num_classes, head.detection
    wanted = finite(boxes.flatten(2)) & finite(probs) & (proposals.scores > NOTHING)
    probs = probs[..., :num_classes]
    scores = probs.masked_fill(~(wanted[..., None] & (probs > detection.score_thresh)), NOTHING).flatten(1)
    num = min(scores.shape[1], MAX_CANDIDATES)
    scores, columns = scores.topk(num, dim=1)
    rows, classes = columns // num_classes, columns % num_classes
    places = rows if head.class_agnostic else columns
    boxes = rows_of(boxes.flatten(1, 2), places).masked_fill((scores == NOTHING)[..., None], 0.0)
    boxes = clipped(boxes, regions)
    if detection.min_size is not None:
        scores = scores.masked_fill(~larger(boxes, detection.min_size), NOTHING)
    return Rows(boxes, scores, classes)


@static_candidates.register(MatterportDetections)
def _(head: MatterportDetections, boxes: Tensor, probs: Tensor, proposals: Rows, regions: Tensor) -> Rows:
    likeliest = F.one_hot(probs.argmax(dim=-1), probs.shape[-1]).bool()
    form = static_candidates.dispatch(FastRCNNHead)
    found: Rows = form(head, boxes, probs.masked_fill(~likeliest, 0.0), proposals, regions)
    return Rows(found.boxes.round(), found.scores, found.classes)


def static_boxes(
    head: FastRCNNHead, predictions: BoxPredictions, scores: Tensor, proposals: Rows, regions: Tensor
) -> Rows:
    """The detections of a box head: ``BoxHead.detections`` with fixed counts."""
    count = proposals.scores.shape[1]
    boxes = head.box_coder.decode(proposals.flat, predictions.deltas).unflatten(0, (-1, count)).unflatten(2, (-1, 4))
    candidates = static_candidates(head, boxes, scores.unflatten(0, (-1, count)), proposals, regions)
    detection = head.detection
    return chosen(candidates, detection.nms(), head.num_classes, detection.nms_thresh, detection.max_detections)


@static_form("predict", "box_detections")
def static_detections(heads: RoIHeads, batch: Batch, features: Features, proposals: Rows) -> Rows:
    """The detections of each image, best first: ``RoIHeads.box_detections`` with fixed counts.

    Raises:
        ConfigError: there is no static form of it.
    """
    raise no_static_form(heads, "static_detections")


@static_detections.register(StandardRoIHeads)
def _(heads: StandardRoIHeads, batch: Batch, features: Features, proposals: Rows) -> Rows:
    head = _known(heads, heads.box_head)
    predictions = head.predictions(features, [proposals.flat])  # type: ignore[list-item]
    return static_boxes(head, predictions, head.scores(predictions), proposals, batch.regions)


@static_detections.register(Res5RoIHeads)
def _(heads: Res5RoIHeads, batch: Batch, features: Features, proposals: Rows) -> Rows:
    form = static_detections.dispatch(StandardRoIHeads)
    found: Rows = form(heads, batch, heads.regions(features, [proposals.flat]), proposals)  # type: ignore[list-item]
    return found


@static_detections.register(CascadeRoIHeads)
def _(heads: CascadeRoIHeads, batch: Batch, features: Features, proposals: Rows) -> Rows:
    scores, stages = [], [_known(heads, head) for head in heads.stages]
    for number, head in enumerate(stages):
        predictions = head.predictions(features, [proposals.flat])  # type: ignore[list-item]
        scores.append(head.scores(predictions))
        if number < len(stages) - 1:
            refined = head.likeliest_boxes(predictions, proposals.flat).view_as(proposals.boxes)
            proposals = Rows(clipped(refined, batch.regions), proposals.scores)
    return static_boxes(head, predictions, torch.stack(scores).mean(dim=0), proposals, batch.regions)


def _known(heads: RoIHeads, head: BoxHead) -> FastRCNNHead:
    if not isinstance(head, FastRCNNHead):
        raise no_static_form(heads, "static_detections", f" with a box head such as {type(head).__name__}")
    return head


@static_form("predict")
def static_fields(head: InstanceHead, features: Features, boxes: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """What a head says of detections: name -> ``(N * D, ...)``. Register a head of your own here.

    Args:
        head: the head.
        features: of its RoI heads.
        boxes: ``(N * D, 4)``, D of each image.
        classes: ``(N * D,)``.

    Raises:
        ConfigError: there is no static form of it.
    """
    raise no_static_form(head, "static_fields")


@static_fields.register(MaskHead)
def _(head: MaskHead, features: Features, boxes: Tensor, classes: Tensor) -> dict[str, Tensor]:
    if type(head).mask_probs is MaskHead.mask_probs:
        raise no_static_form(head, "static_fields")
    return {"mask_probs": head.mask_probs(features, [boxes], classes)}  # type: ignore[list-item]


@static_fields.register(ConvUpsampleKeypointHead)
def _(head: ConvUpsampleKeypointHead, features: Features, boxes: Tensor, classes: Tensor) -> dict[str, Tensor]:
    return {"keypoint_maps": head(features, [boxes]).float()}  # type: ignore[list-item]


@static_form("described")
def static_described(heads: RoIHeads, features: Features, found: Rows) -> dict[str, Tensor]:
    """What the other heads say of the detections: name -> ``(N, D, ...)``. See ``RoIHeads.described``.

    Raises:
        ConfigError: there is no static form of it.
    """
    raise no_static_form(heads, "static_described")


@static_described.register(StandardRoIHeads)
def _(heads: StandardRoIHeads, features: Features, found: Rows) -> dict[str, Tensor]:
    assert found.classes is not None
    fields: dict[str, Tensor] = {}
    for head in heads.instance_heads:
        fields |= static_fields(head, features, found.flat, found.classes.flatten())
    return {name: value.unflatten(0, (-1, found.scores.shape[1])) for name, value in fields.items()}


@static_described.register(Res5RoIHeads)
def _(heads: Res5RoIHeads, features: Features, found: Rows) -> dict[str, Tensor]:
    if not heads.instance_heads:
        return {}
    form = static_described.dispatch(StandardRoIHeads)
    fields: dict[str, Tensor] = form(heads, heads.regions(features, [found.flat]), found)  # type: ignore[list-item]
    return fields
