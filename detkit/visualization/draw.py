"""Ground truth and predictions drawn on images: every field of instances that can be drawn, and maps of pixels."""

from collections.abc import Sequence

import numpy as np

from detkit.structures import Boxes, CroppedMasks, Instances, Keypoints, Panoptic, Prediction
from detkit.visualization.colors import palette
from detkit.visualization.drawing import MAX_SIDE, MIN_SIDE, Drawing
from detkit.visualization.fonts import class_label
from detkit.visualization.inputs import ImageLike


def draw_prediction(
    image: ImageLike,
    prediction: Prediction,
    class_names: Sequence[str] = (),
    *,
    score_thresh: float = 0.0,
    show_best: int = 0,
    skeleton: Sequence[tuple[int, int]] = (),
    semantic_names: Sequence[str] = (),
    min_side: int = MIN_SIDE,
    max_side: int | None = MAX_SIDE,
) -> np.ndarray:
    """An image with a prediction, or with ground truth: its panoptic map, or else its instances on its semantic map.

    Each class has its colour where there are several, else each instance. Masks are translucent with a contour;
    keypoints are joined by the skeleton's edges; a field of another type is drawn by its own method ``draw``, if it has
    one (see ``Drawing``). Labels give the class and, for predictions, the score.

    Args:
        image: as ``Drawing`` takes it.
        prediction: its instances have ``boxes`` and, where there are any, ``classes``, ``scores``, ``masks``,
            ``keypoints`` and others. They may be in other pixels than ``image``: they are scaled to it.
        class_names: the K names; without them labels give class numbers.
        score_thresh: instances below this score are not drawn.
        show_best: where no instance reaches the score, so many of the best are drawn with dashed boxes and a note.
        skeleton: pairs of keypoints that are joined; none: those of the instances' own skeleton.
        semantic_names: the classes of the semantic map; none: they are the K classes.
        min_side: an image whose longer side is shorter is enlarged to it.
        max_side: an image whose longer side is longer is shrunk to it; None: none is.

    Returns:
        ``(H', W', 3)`` uint8.

    Raises:
        ValueError: the image has another type or shape.
        DataError: a file that cannot be read.
    """
    instances = prediction.above(score_thresh).instances
    drawing = Drawing(image, None if instances is None else instances.image_size, min_side, max_side)
    if prediction.panoptic is not None:
        _draw_panoptic(drawing, prediction.panoptic, class_names, semantic_names or class_names)
        return drawing.array()
    if prediction.semantic is not None:
        _draw_semantic(drawing, prediction.semantic.cpu().numpy(), semantic_names or class_names)
    below = best_below(prediction.instances, score_thresh, show_best)
    if below is not None:
        draw_rows(drawing, below, class_names, skeleton, dashed=True, note=below_note(len(below), score_thresh))
    elif instances is not None and len(instances):
        draw_rows(drawing, instances, class_names, skeleton)
    return drawing.array()


def best_below(instances: Instances | None, score_thresh: float, num: int) -> Instances | None:
    """The best ``num`` instances where there are some and none reaches the score; else None."""
    if instances is None or not num or not len(instances) or "scores" not in instances:
        return None
    best = instances[instances.scores.argsort(descending=True)[:num]]
    return None if bool((instances.scores >= score_thresh).any()) else best


def below_note(num: int, score_thresh: float) -> str:
    """What is said of the instances of ``best_below``."""
    return f"below the threshold {score_thresh:g}: best {num}"


def draw_instances(image: ImageLike, instances: Instances, class_names: Sequence[str] = ()) -> np.ndarray:
    """An image with instances; see ``draw_prediction``."""
    return draw_prediction(image, Prediction(instances), class_names)


def draw_rows(
    drawing: Drawing,
    instances: Instances,
    class_names: Sequence[str],
    skeleton: Sequence[tuple[int, int]],
    *,
    colors: np.ndarray | None = None,
    dashed: np.ndarray | bool = False,
    note: str = "",
) -> None:
    """Draws every field of N instances, the best on top; ``colors`` ``(N, 3)`` take the place of those of classes.

    Boxes that are ``dashed``, ``(N,)`` bool or all, have dashes; ``note`` is written in a corner.
    """
    num = len(instances)
    classes = instances.classes.tolist() if "classes" in instances else [0] * num
    if colors is None:
        table = palette(max([num, *(c + 1 for c in classes)]))
        colors = table[classes] if len(class_names) != 1 else table[:num]
    if "scores" in instances:
        order = instances.scores.argsort(descending=True, stable=True)
        rows = order.cpu().numpy()
        instances, classes, colors = instances[order], [classes[i] for i in rows], colors[rows]
        dashed = np.broadcast_to(dashed, num)[rows]
    fields = instances.to("cpu").fields
    masks = [field for field in fields.values() if hasattr(field, "bitmaps")]
    for field in masks:
        drawing.masks(CroppedMasks.around(field), colors)
    for field in fields.values():
        if hasattr(field, "draw"):
            field.draw(drawing, colors)
        elif isinstance(field, Boxes):
            thin = max(1, drawing.line - 1) if masks else None
            drawing.boxes(field.tensor.numpy(), colors, thin, dashed=dashed)
        elif isinstance(field, Keypoints):
            drawing.keypoints(field.numpy(), colors, skeleton or field.skeleton)
    drawing.labels(np.zeros((1, 4)), [note], (0, 0, 0))
    if "boxes" in fields:
        drawing.labels(fields["boxes"].tensor.numpy(), _texts(instances, classes, class_names), colors)


def _draw_semantic(drawing: Drawing, classes: np.ndarray, class_names: Sequence[str]) -> None:
    """``(H, W)`` classes; pixels of no class are below 0, or at or above the number of names."""
    limit = len(class_names) or int(classes.max(initial=-1)) + 1
    present = [c for c in np.unique(classes).tolist() if 0 <= c < limit]
    texts = [class_label(c, class_names) for c in present]
    _draw_regions(drawing, [classes == c for c in present], texts, palette(limit)[present])


def _draw_panoptic(
    drawing: Drawing, panoptic: Panoptic, class_names: Sequence[str], semantic_names: Sequence[str]
) -> None:
    ids, segments = panoptic.ids.cpu().numpy(), panoptic.segments
    texts = [class_label(s.class_index, class_names if s.is_thing else semantic_names) for s in segments]
    texts = [text if s.score is None else f"{text} {s.score:.2f}" for text, s in zip(texts, segments)]
    _draw_regions(drawing, [ids == segment.id for segment in segments], texts, palette(len(segments)))


def _draw_regions(drawing: Drawing, bitmaps: list[np.ndarray], texts: list[str], colors: np.ndarray) -> None:
    """Masks of whole images with a label at the middle one of each mask's pixels."""
    if not bitmaps:
        return
    drawing.masks(bitmaps, colors)
    rows_columns = [np.nonzero(bitmap) for bitmap in bitmaps]
    middles = [(x[len(x) // 2], y[len(y) // 2]) if len(x) else (0, 0) for y, x in rows_columns]
    drawing.labels(np.tile(middles, 2), [t if len(x) else "" for t, (_, x) in zip(texts, rows_columns)], colors)


def _texts(instances: Instances, classes: list[int], class_names: Sequence[str]) -> list[str]:
    """Class and score; the name is left out where there is only one class."""
    names = [class_label(c, class_names) for c in classes]
    if "scores" not in instances:
        return names if "classes" in instances and len(class_names) != 1 else [""] * len(classes)
    scores = [f"{score:.2f}" for score in instances.scores.tolist()]
    return scores if len(class_names) == 1 else [f"{name} {score}" for name, score in zip(names, scores)]
