"""Predictions beside the ground truth, with colours for what is right, false or missed."""

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import torch

from detkit.layers.box_ops import pairwise_iou
from detkit.structures import Boxes, Instances
from detkit.visualization.draw import below_note, best_below, draw_rows
from detkit.visualization.drawing import MIN_SIDE, Drawing
from detkit.visualization.inputs import ImageLike
from detkit.visualization.sheet import side_by_side

CORRECT, FALSE, MISSED, NOT_JUDGED = range(4)
COLORS = np.array([(86, 180, 233), (213, 94, 0), (240, 228, 66), (190, 190, 190)], np.uint8)
"""Sky blue, vermilion, yellow (of Okabe and Ito, which the colour-blind can tell apart) and grey."""
PANEL_SIDE = 1000
"""The longer side of each of two pictures is at most this."""


def comparable(instances: Instances | None) -> TypeGuard[Instances]:
    """Whether there are the boxes and classes that ``match_instances`` takes."""
    return instances is not None and "boxes" in instances and "classes" in instances


def match_instances(truth: Instances, found: Instances, iou_thresh: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Which objects are found and which detections are right: the best first takes the free object it overlaps most.

    Args:
        truth: G objects with ``boxes`` and ``classes``; those of a field ``crowd``, and crowds in its ``info``, are not
            judged, and neither is a detection that lies on one of its class.
        found: N detections with ``boxes``, ``classes`` and maybe ``scores``, also in other pixels of the same image.
        iou_thresh: how far the boxes of one class overlap at least.

    Returns:
        ``(G,)`` of CORRECT, MISSED and NOT_JUDGED, and ``(N,)`` of CORRECT, FALSE and NOT_JUDGED.
    """
    truth, found = truth.to("cpu"), found.to("cpu")
    scale = torch.tensor([truth.image_size[1 - i % 2] / found.image_size[1 - i % 2] for i in range(4)])
    boxes, objects = found.boxes.tensor * scale, truth.boxes.tensor
    same = found.classes[:, None] == truth.classes[None]
    overlap = (pairwise_iou(boxes, objects).nan_to_num() * same).numpy()
    crowd = truth.crowd.numpy().astype(bool) if "crowd" in truth else np.zeros(len(truth), bool)
    hidden = _share_inside(boxes, objects[torch.from_numpy(crowd)], same[:, torch.from_numpy(crowd)])
    if truth.info.crowds is not None:
        hidden |= _share_inside(boxes, truth.info.crowds.tensor, None)
    states = np.where(crowd, NOT_JUDGED, MISSED)
    results = np.where(hidden, NOT_JUDGED, FALSE)
    order = found.scores.argsort(descending=True, stable=True).tolist() if "scores" in found else range(len(found))
    for row in order if len(truth) else ():
        free = np.where(states == MISSED, overlap[row], -1.0)
        if free.max() >= iou_thresh:
            states[free.argmax()] = results[row] = CORRECT
    return states, results


def draw_comparison(
    image: ImageLike,
    truth: Instances,
    found: Instances,
    class_names: Sequence[str] = (),
    *,
    score_thresh: float = 0.5,
    show_best: int = 3,
    skeleton: Sequence[tuple[int, int]] = (),
    min_side: int = MIN_SIDE,
    max_side: int | None = PANEL_SIDE,
) -> np.ndarray:
    """Ground truth and detections on the same image, side by side under a legend.

    Detections of at least ``score_thresh`` are right or false, objects found or missed, as ``match_instances`` has it
    with an IoU of 0.5; missed objects have dashed boxes. Where no detection reaches the score, the best ``show_best``
    are drawn grey and dashed.

    Args:
        image: as ``Drawing`` takes it.
        truth, found: as for ``match_instances``; other fields, such as masks, are drawn too.
        class_names, skeleton, min_side, max_side: as for ``draw_prediction``.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    kept = found[found.scores >= score_thresh] if "scores" in found else found
    states, results = match_instances(truth, kept)
    shown = best_below(found, score_thresh, show_best)
    dashed, note = shown is not None, below_note(len(shown), score_thresh) if shown is not None else ""
    pictures = []
    for rows, kinds, marks, words in (
        (truth, states, states == MISSED, ""),
        (kept if shown is None else shown, results if shown is None else NOT_JUDGED, dashed, note),
    ):
        drawing = Drawing(image, rows.image_size, min_side, max_side)
        colors = np.broadcast_to(COLORS[kinds], (len(rows), 3))
        draw_rows(drawing, rows, class_names, skeleton, colors=colors, dashed=marks, note=words)
        pictures.append(drawing.array())
    titles = [f"ground truth: {len(truth)}", f"prediction: {len(kept)} with score ≥ {score_thresh:g}"]
    names = {CORRECT: "correct", FALSE: "false", MISSED: "missed"}
    counts = {kind: int((results == kind).sum() + (states == kind).sum() * (kind == MISSED)) for kind in names}
    legend = [(f"{name} {counts[kind]}", COLORS[kind]) for kind, name in names.items()]
    if (states == NOT_JUDGED).any() or (results == NOT_JUDGED).any():
        legend.append(("crowd, not judged", COLORS[NOT_JUDGED]))
    return side_by_side(pictures, titles, legend)


def _share_inside(boxes: torch.Tensor, crowds: torch.Tensor, same: torch.Tensor | None) -> np.ndarray:
    """``(N,)`` bool: at least half of the box lies in one of the crowds that it may lie in, ``same`` ``(N, C)``."""
    if not len(crowds) or not len(boxes):
        return np.zeros(len(boxes), bool)
    sides = (torch.minimum(boxes[:, None, 2:], crowds[:, 2:]) - torch.maximum(boxes[:, None, :2], crowds[:, :2])).clamp(
        0
    )
    share = sides.prod(-1) / Boxes(boxes).area()[:, None].clamp(min=1e-9)
    return ((share >= 0.5) & (True if same is None else same)).any(1).numpy()
