"""What happens inside a two-stage detector, drawn: its boxes, anchors, proposals and sampled regions.

Everything is given as plain tensors and Instances in the pixels of the drawing, so they serve any model.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from detkit.structures import Boxes, Instances
from detkit.visualization.colors import palette
from detkit.visualization.drawing import Colors, Drawing
from detkit.visualization.fonts import class_label, load_matplotlib

AnchorKind = Literal["positive", "negative", "neutral"]
ANCHOR_LABELS: dict[AnchorKind, int] = {"positive": 1, "negative": 0, "neutral": -1}

WHITE, RED, BLUE, YELLOW = (255, 255, 255), (226, 74, 51), (90, 160, 255), (255, 214, 10)


def draw_anchors(
    drawing: Drawing,
    anchors: Boxes,
    labels: Tensor,
    matches: Tensor,
    target: Instances,
    *,
    kind: AnchorKind = "positive",
    most: int = 100,
) -> None:
    """Draws anchors of one kind after matching.

    A positive anchor has the colour of the ground-truth box that it was matched to, which is drawn thick; negative
    ones are red, neutral ones (ignored, or not sampled) blue, and the ground truth is white.

    Args:
        anchors: ``(A, 4)`` of all levels.
        labels: ``(A,)``: 1 positive, 0 negative, -1 neutral.
        matches: ``(A,)`` rows of ``target``.
        target: with ``boxes``.
        kind: which anchors are drawn.
        most: how many at most; of more, a random choice that is always the same.
    """
    rows = some_of(torch.nonzero(labels == ANCHOR_LABELS[kind]).squeeze(1), most)
    target_colors: Colors = palette(len(target)) if kind == "positive" else WHITE
    colors: Colors = {"negative": RED, "neutral": BLUE}.get(kind, WHITE)
    if kind == "positive" and len(target):
        colors = palette(len(target))[matches[rows].cpu().numpy()]
    drawing.boxes(anchors.tensor[rows].cpu().numpy(), colors)
    drawing.boxes(target.boxes.tensor.cpu().numpy(), target_colors, drawing.line * (2 if kind == "positive" else 1))


def draw_proposals(drawing: Drawing, proposals: Instances, *, most: int = 50, labels: int = 10) -> None:
    """Draws the proposals with the highest objectness, from blue (0) over green to red (1) by its probability.

    Args:
        proposals: ``boxes`` and ``objectness`` (logits).
        most: how many are drawn.
        labels: how many of them get their probability as a label.
    """
    best = proposals.objectness.argsort(descending=True)[:most]
    probs = proposals.objectness[best].float().sigmoid().cpu().numpy()
    turbo = load_matplotlib().colormaps["turbo"]
    colors = (turbo(0.1 + 0.78 * probs)[:, :3] * 255).round().astype(np.uint8)  # without its dark ends
    texts = [f"{prob:.2f}" if number < labels else "" for number, prob in enumerate(probs)]
    boxes = proposals.boxes.tensor[best].cpu().numpy()
    drawing.boxes(boxes, colors)
    drawing.labels(boxes, texts, colors)


def draw_regions(
    drawing: Drawing, sampled: Instances, class_names: Sequence[str], *, foreground: bool = True, most: int = 100
) -> None:
    """Draws the regions that were sampled for training: foreground in the colour and (where there are several classes)
    with the name of its class, or background in red.

    Args:
        sampled: ``boxes`` and ``classes``; the number of classes is background.
        class_names: the K names.
        foreground: which of the two.
        most: how many at most; of more, a random choice that is always the same.
    """
    wanted = (sampled.classes < len(class_names)) == foreground
    rows = some_of(torch.nonzero(wanted & (sampled.classes >= 0)).squeeze(1), most)
    boxes, classes = sampled.boxes.tensor[rows].cpu().numpy(), sampled.classes[rows].tolist()
    colors: Colors = palette(len(class_names))[classes] if foreground else RED
    drawing.boxes(boxes, colors)
    if foreground and len(class_names) > 1:
        drawing.labels(boxes, [class_label(c, class_names) for c in classes], colors)


def some_of(rows: Tensor, most: int) -> Tensor:
    """At most ``most`` of ``rows``, in their order; of more, a random choice that is always the same."""
    if len(rows) <= most:
        return rows
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:most]
    return rows[chosen.sort().values.to(rows.device)]
