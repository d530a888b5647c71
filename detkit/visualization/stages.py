"""Pictures of what happens inside a two-stage detector: its input, anchors, proposals and sampled regions.

Everything is given as plain tensors and Instances in the pixels of ``image``, so any model can be looked at.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import ImageDraw
from torch import Tensor

from detkit.structures import Boxes, Instances
from detkit.visualization.colors import palette
from detkit.visualization.draw import MIN_SIDE, enlarged, line_width, rectangle
from detkit.visualization.inputs import ImageLike
from detkit.visualization.labels import font_size, write_labels

AnchorKind = Literal["positive", "negative", "neutral"]
ANCHOR_LABELS: dict[str, int] = {"positive": 1, "negative": 0, "neutral": -1}

_WHITE, _RED, _BLUE, _YELLOW = (255, 255, 255), (226, 74, 51), (90, 160, 255), (255, 214, 10)


def draw_boxes(
    image: ImageLike,
    boxes: Tensor,
    colors: np.ndarray | tuple[int, int, int],
    texts: Sequence[str] = (),
    *,
    width: int = 1,
    min_side: int = MIN_SIDE,
) -> np.ndarray:
    """The image with the outlines of boxes, the first on top.

    Args:
        image: as in ``draw_instances``.
        boxes: ``(N, 4)`` xyxy in the pixels of ``image``; what lies outside is not seen.
        colors: ``(N, 3)`` uint8 RGB, or one for all.
        texts: a label a box, empty for none; the first ones get the best places.
        width: of the lines, as a multiple of what suits the picture's size.
        min_side: as in ``draw_instances``.

    Returns:
        ``(H', W', 3)`` uint8.
    """
    canvas = enlarged(image, min_side)
    before = enlarged(image, 0)
    scale = np.array([canvas.width / before.width, canvas.height / before.height] * 2)
    corners = boxes.detach().cpu().double().numpy().reshape(-1, 4) * scale
    table = np.broadcast_to(np.asarray(colors, np.uint8).reshape(-1, 3), (len(corners), 3))
    pen, line = ImageDraw.Draw(canvas), width * line_width(canvas)
    for box, color in zip(corners[::-1], table[::-1]):
        rectangle(pen, box, tuple(color.tolist()), line)
    if texts:
        size = font_size((canvas.width * canvas.height) ** 0.5, sum(map(bool, texts)))
        write_labels(pen, canvas.size, corners, list(texts), table, size)
    return np.asarray(canvas).copy()


def draw_window(image: ImageLike, window: Sequence[int], *, min_side: int = MIN_SIDE) -> np.ndarray:
    """The image with its window ``(x1, y1, x2, y2)``, the part that is no padding, outlined in yellow."""
    return draw_boxes(image, torch.tensor([list(window)]), _YELLOW, width=2, min_side=min_side)


def draw_anchors(
    image: ImageLike,
    anchors: Boxes,
    labels: Tensor,
    matches: Tensor,
    target: Instances,
    *,
    kind: AnchorKind = "positive",
    most: int = 100,
    min_side: int = MIN_SIDE,
) -> np.ndarray:
    """Anchors of one kind after matching.

    A positive anchor has the colour of the ground-truth box that it was matched to, which is drawn thick; negative
    ones are red, neutral ones (ignored, or not sampled) blue.

    Args:
        image: what the anchors lie on.
        anchors: ``(A, 4)`` of all levels.
        labels: ``(A,)``: 1 positive, 0 negative, -1 neutral.
        matches: ``(A,)`` rows of ``target``.
        target: with ``boxes``.
        kind: which anchors are drawn.
        most: how many at most; of more, a random choice that is always the same.
        min_side: as in ``draw_instances``.
    """
    rows = some_of(torch.nonzero(labels == ANCHOR_LABELS[kind]).squeeze(1), most)
    colors: np.ndarray | tuple[int, int, int] = {"negative": _RED, "neutral": _BLUE}.get(kind, _WHITE)
    of_truth = palette(len(target))
    if kind == "positive" and len(target):
        colors = of_truth[matches[rows].cpu().numpy()]
    picture = draw_boxes(image, anchors.tensor[rows], colors, min_side=min_side)
    if not len(target):
        return picture
    scale = picture.shape[1] / enlarged(image, 0).width
    truth = of_truth if kind == "positive" else _WHITE
    return draw_boxes(picture, target.boxes.tensor * scale, truth, width=2 if kind == "positive" else 1, min_side=0)


def draw_proposals(
    image: ImageLike, proposals: Instances, *, most: int = 50, labels: int = 10, min_side: int = MIN_SIDE
) -> np.ndarray:
    """The proposals with the highest objectness, from blue (0) over green to red (1) by its probability.

    Args:
        image: what they lie on.
        proposals: ``boxes`` and ``objectness`` (logits).
        most: how many are drawn.
        labels: how many of them get their probability as a label.
        min_side: as in ``draw_instances``.
    """
    import matplotlib

    best = proposals.objectness.argsort(descending=True)[:most]
    probs = proposals.objectness[best].float().sigmoid().cpu().numpy()
    colors = (matplotlib.colormaps["turbo"](0.1 + 0.78 * probs)[:, :3] * 255).round().astype(np.uint8)  # dark ends off
    texts = [f"{prob:.2f}" if number < labels else "" for number, prob in enumerate(probs)]
    return draw_boxes(image, proposals.boxes.tensor[best], colors, texts, min_side=min_side)


def draw_regions(
    image: ImageLike,
    sampled: Instances,
    class_names: Sequence[str],
    *,
    foreground: bool = True,
    most: int = 100,
    min_side: int = MIN_SIDE,
) -> np.ndarray:
    """The regions that were sampled for training: foreground in the colour and (where there are several classes) with
    the name of its class, or background in red.

    Args:
        image: what they lie on.
        sampled: ``boxes`` and ``classes``; the number of classes is background.
        class_names: the K names.
        foreground: which of the two.
        most: how many at most; of more, a random choice that is always the same.
        min_side: as in ``draw_instances``.
    """
    wanted = (sampled.classes < len(class_names)) == foreground
    rows = some_of(torch.nonzero(wanted & (sampled.classes >= 0)).squeeze(1), most)
    boxes, classes = sampled.boxes.tensor[rows], sampled.classes[rows].tolist()
    if not foreground:
        return draw_boxes(image, boxes, _RED, min_side=min_side)
    colors = palette(len(class_names))[classes]
    texts = [class_names[c] for c in classes] if len(class_names) > 1 else []
    return draw_boxes(image, boxes, colors, texts, min_side=min_side)


def some_of(rows: Tensor, most: int) -> Tensor:
    """At most ``most`` of ``rows``, in their order; of more, a random choice that is always the same."""
    if len(rows) <= most:
        return rows
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:most]
    return rows[chosen.sort().values.to(rows.device)]
