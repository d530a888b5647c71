"""Suppression with fixed counts: which of M candidates stay is a mask. B sets of candidates, M in each."""

import math

import torch
from torch import Tensor
from torchvision.ops import nms

from detkit.export.static.dispatch import no_static_form, static_form
from detkit.modeling.interfaces import Suppression
from detkit.modeling.suppression import HardNMS, MatrixNMS, SoftNMS, soft_nms

NOTHING = -math.inf
"""The score of a padding row."""


@torch.library.custom_op("detkit::nms_mask", mutates_args=())
def nms_mask(boxes: Tensor, scores: Tensor, iou_thresh: float) -> Tensor:
    """``(B, M)`` bool: what greedy NMS keeps of each set. An operator of its own, as engines have one for it.

    Args:
        boxes: ``(B, M, 4)`` xyxy.
        scores: ``(B, M)``; a row of score -inf neither stays nor suppresses.
        iou_thresh: a box that overlaps a better one by more than this is dropped.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for row, own, ranks in zip(kept, boxes, scores):
        alive = torch.nonzero(ranks > NOTHING)[:, 0]
        row[alive[nms(own[alive], ranks[alive], iou_thresh)]] = True
    return kept


@nms_mask.register_fake
def _(boxes: Tensor, scores: Tensor, iou_thresh: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def nms_mask_of_torchvision(boxes: Tensor, scores: Tensor, iou_thresh: float) -> Tensor:
    """``nms_mask`` by one call of torchvision's operator, for a program without operators of ours.

    The sets are laid out side by side, so that none touches another; padding rows have no area.
    """
    number, alive = scores.shape[0], scores > NOTHING
    sets = torch.arange(number, device=boxes.device)
    apart = in_groups(boxes * alive[..., None], sets[:, None].expand_as(scores), number)
    index = nms(apart.flatten(0, 1), scores.flatten(), iou_thresh)
    kept = torch.zeros_like(scores, dtype=torch.bool).flatten().index_fill(0, index, True)
    return kept.unflatten(0, (number, -1)) & alive


@torch.library.custom_op("detkit::soft_nms", mutates_args=())
def soft_nms_scores(
    boxes: Tensor, scores: Tensor, classes: Tensor, linear_from: float, power: float, num: int
) -> Tensor:
    """The first of what ``soft_nms`` returns. An operator of its own: a graph would have each step of the loop."""
    return soft_nms(boxes, scores, classes, linear_from, power, num)[0]


@soft_nms_scores.register_fake
def _(boxes: Tensor, scores: Tensor, classes: Tensor, linear_from: float, power: float, num: int) -> Tensor:
    return torch.empty_like(scores)


def soft_nms_scores_of_torch(
    boxes: Tensor, scores: Tensor, classes: Tensor, linear_from: float, power: float, num: int
) -> Tensor:
    """``soft_nms_scores`` in the operators of torch, for a program without operators of ours."""
    return soft_nms(boxes, scores, classes, linear_from, power, num)[0]


def in_groups(boxes: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """``(B, M, 4)`` boxes moved so that those of different ``groups`` (B, M), 0 to ``num_groups`` - 1, are apart.

    Each group has its cell of a square of cells. In a row of them coordinates would grow so large that float32
    rounds them by hundredths of a pixel.
    """
    columns = math.ceil(math.sqrt(num_groups)) if isinstance(num_groups, int) else num_groups
    low, high = (limit(boxes.flatten(), dim=0) for limit in (torch.amin, torch.amax))
    side = high - low + 1
    x, y = groups % columns, groups // columns
    return boxes + torch.stack([x, y, x, y], dim=-1) * side


@static_form("__call__")
def static_suppression(
    suppression: Suppression,
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    num_classes: int,
    iou_thresh: float,
    num: int,
) -> Tensor:
    """``(B, M)`` the scores after suppression, -inf for a box that is dropped. Register a suppression of your own here.

    Args:
        suppression: the part of the model.
        boxes: ``(B, M, 4)``.
        scores: ``(B, M)``, -inf for a padding row.
        classes: ``(B, M)``.
        num_classes: K.
        iou_thresh: as ``Suppression.__call__`` takes it.
        num: so many of the best rows are wanted.

    Raises:
        ConfigError: there is no static form of it.
    """
    raise no_static_form(suppression, "static_suppression")


@static_suppression.register(HardNMS)
def _(
    suppression: HardNMS, boxes: Tensor, scores: Tensor, classes: Tensor, num_classes: int, iou_thresh: float, num: int
) -> Tensor:
    kept = nms_mask(in_groups(boxes, classes, num_classes), scores, iou_thresh)
    return scores.masked_fill(~kept, NOTHING)


@static_suppression.register(SoftNMS)
def _(
    suppression: SoftNMS, boxes: Tensor, scores: Tensor, classes: Tensor, num_classes: int, iou_thresh: float, num: int
) -> Tensor:
    taken = soft_nms_scores(boxes, scores, classes, *suppression.decays(iou_thresh), num)
    return taken.masked_fill(taken < suppression.min_score, NOTHING)


@static_suppression.register(MatrixNMS)
def _(
    suppression: MatrixNMS,
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    num_classes: int,
    iou_thresh: float,
    num: int,
) -> Tensor:
    best, order = scores.topk(min(suppression.pre_nms_topk, scores.shape[1]), dim=1)
    of_class = classes.gather(1, order)
    chosen = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    factors = suppression.factors(batched_iou(chosen, chosen), of_class)
    now = torch.where(best > NOTHING, best * factors, NOTHING)
    now = now.masked_fill(now < suppression.min_score, NOTHING)
    return torch.full_like(scores, NOTHING).scatter(1, order, now)


def batched_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """``(B, A, M)`` IoU of ``(B, A, 4)`` with ``(B, M, 4)`` boxes; 0 where both are without area."""
    low = torch.maximum(boxes[:, :, None, :2], others[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], others[:, None, :, 2:])
    inter = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(b[..., 2:] - b[..., :2]).prod(dim=-1) for b in (boxes, others)]
    union = areas[0][:, :, None] + areas[1][:, None] - inter
    return torch.where(union > 0, inter / union, 0.0)
