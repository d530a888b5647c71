"""How far apart two results are: numbers, sets of boxes, masks."""

import math
from typing import Literal

import torch
from torch import Tensor

from detkit.comparisons.report import Difference
from detkit.modeling.interfaces import MaskPaster
from detkit.structures import Boxes, Instances

RELATIVE = 1e-4
"""Of features and losses, relative to the reference."""
PIXELS = 0.01
"""Of boxes."""
SCORE = 1e-5
"""Of probabilities."""
MASK = 1e-3
"""Of masks: 1 - IoU."""
UNDECIDED = 1e-4
"""A pixel whose probability is so near the threshold belongs to the object or not, as rounding has it."""

REACH = 10.0
"""How many tolerances away a counterpart is looked for."""


def absolute(ours: Tensor, theirs: Tensor) -> Difference:
    """The largest absolute difference of two tensors."""
    if ours.shape != theirs.shape:
        return Difference(math.inf)
    if not theirs.numel():
        return Difference(0.0)
    return Difference(_finite((ours.double() - theirs.double()).abs().max()))


def relative(ours: Tensor, theirs: Tensor) -> Difference:
    """The largest absolute difference, relative to the largest absolute value of ``theirs``."""
    scale = float(theirs.abs().max()) if theirs.numel() else 0.0
    difference = absolute(ours, theirs).largest
    return Difference(difference / scale if scale else difference)


def _finite(value: Tensor) -> float:
    number = float(value)
    return number if math.isfinite(number) else math.inf


def match(ours: Instances, theirs: Instances, pixels: float = PIXELS, score: float = SCORE) -> tuple[Tensor, Tensor]:
    """Counterparts: rows of ``ours``, and the rows of ``theirs`` that they belong to, ``(M,)`` each.

    Boxes are compared as sets, because the order of equal scores is arbitrary. Two are counterparts if their classes
    (where both have them) are equal and box and score lie within ``REACH`` times the tolerance; of several the nearest
    is taken, and each only once.

    Args:
        ours, theirs: ``boxes`` and, where both have them, ``scores`` and ``classes``.
        pixels: tolerance of boxes.
        score: tolerance of scores.
    """
    a, b = ours.boxes.tensor, theirs.boxes.tensor
    cost = (b[:, None].double() - a[None].double()).abs().amax(2) / pixels
    if "scores" in ours and "scores" in theirs:
        cost = torch.maximum(cost, (theirs.scores[:, None].double() - ours.scores[None].double()).abs() / score)
    if "classes" in ours and "classes" in theirs:
        cost = cost.masked_fill(theirs.classes[:, None] != ours.classes[None], math.inf)
    cost = cost.nan_to_num(nan=math.inf, posinf=math.inf)
    pairs = []
    for row in cost.amin(1).argsort().tolist() if len(a) else ():  # the surest first
        column = int(cost[row].argmin())
        if cost[row, column] <= REACH:
            pairs.append((column, row))
            cost[:, column] = math.inf
    rows = torch.tensor(sorted(pairs, key=lambda pair: pair[1]), dtype=torch.long).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def set_difference(
    field: Literal["boxes", "scores"], ours: Instances, theirs: Instances, pixels: float = PIXELS, tied: int = 0
) -> Difference:
    """Of the boxes or the scores of two sets of boxes; see ``match``. ``tied`` of those that are unmatched are ties."""
    rows, partners = match(ours, theirs, pixels)
    a, b = ours[rows], theirs[partners]
    largest = absolute(a.boxes.tensor, b.boxes.tensor) if field == "boxes" else absolute(a.scores, b.scores)
    total = len(ours) + len(theirs)
    return Difference(largest.largest, total - 2 * len(rows), total, tied)


def mask_difference(
    probs: Tensor, boxes: Boxes, theirs: Tensor, paster: MaskPaster, threshold: float = 0.5
) -> Difference:
    """The largest 1 - IoU of masks.

    Pixels whose probability is within ``UNDECIDED`` of the threshold are left out.

    Args:
        probs: ``(N, M, M)`` of ours, in 0..1.
        boxes: ``(N, 4)`` where they are pasted.
        theirs: ``(N, height, width)`` bool.
        paster: pastes ours.
        threshold: probability from which a pixel belongs to the object.
    """
    worst, size = 0.0, (theirs.shape[-2], theirs.shape[-1])
    for start in range(0, len(theirs), 32):  # full-size masks are large
        part = slice(start, start + 32)
        cuts = (threshold + UNDECIDED, threshold, threshold - UNDECIDED)
        sure, mask, unsure = (paster(probs[part], boxes[part], size, cut).bitmaps().tensor for cut in cuts)
        decided = sure | ~unsure
        both = (mask & theirs[part] & decided).flatten(1).sum(1)
        either = ((mask | theirs[part]) & decided).flatten(1).sum(1)
        worst = max(worst, _worst(both, either))
    return Difference(worst)


def _worst(both: Tensor, either: Tensor) -> float:
    iou = both.double() / either.clamp(min=1)
    return float((1 - iou).masked_fill(either == 0, 0.0).max()) if len(either) else 0.0
