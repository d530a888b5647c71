"""Objects that no anchor reaches."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from detkit.doctor.grid import Level, anchored_part, best_iou, grid_of
from detkit.doctor.histogram import histogram_image, histogram_text
from detkit.doctor.input_boxes import InputBoxes, input_boxes
from detkit.doctor.interfaces import CHECKS, Check, CheckContext, Finding
from detkit.modeling.anchors import by_level

SAMPLE, QUICK_SAMPLE = 1000, 50
"""Images whose objects are compared with the anchors."""
MANY = 0.05
"""The share of objects out of reach that is more than the odd speck."""


@CHECKS.register()
class AnchorsReachObjects(Check):
    """Objects whose best anchor overlaps them less than the matcher of the proposal generator, or of a one-stage
    detector's head, asks for. (FCOS has no anchors that overlap objects.)

    An object is out of reach below the matcher's ``background_thresh`` (where ``allow_low_quality`` still gives it its
    best anchor, which then learns to be what its overlap says it is not), or below ``foreground_thresh`` where it does
    not, so that no anchor ever learns it. Sizes are those after the augmentations of training; up to 1,000 images are
    compared (50 in the quick form). The histogram tells which sizes and shapes are missed.

    It is an error where all objects are smaller than the smallest anchor, or all larger than the largest: then nothing
    but the odd best anchor is learned.

    Fix: anchor sizes by the objects', which the finding suggests; or larger images for small objects.
    """

    needs = ("train", "model")

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        """A warning where over 5 % of the objects are out of reach, else a note if any is; see the class for errors."""
        assert context.train is not None
        anchored = anchored_part(context.model)
        if anchored is None:
            return
        path, part, matcher = anchored
        objects = input_boxes(context, context.train, QUICK_SAMPLE if context.quick else SAMPLE)
        levels = grid_of(context.model, part, tuple(objects.sizes.max(0).astype(int))) if len(objects.rows) else None
        if not levels:
            return
        thresh = matcher.background_thresh if matcher.allow_low_quality else matcher.foreground_thresh
        reach = best_iou(objects.boxes, objects.sizes, levels)
        lost = np.flatnonzero(reach < thresh)
        if context.histogram:
            histogram_image(objects.boxes, reach, levels, thresh, context.histogram)
            context.histogram_drawn = True
        if not len(lost):
            return
        share, worst = len(lost) / len(reach), lost[np.argsort(reach[lost], kind="stable")]
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        cells = np.concatenate([(level.cells[:, 2:] - level.cells[:, :2]).prod(1) for level in levels])
        areas = sides.prod(1)
        none = share == 1 and (areas.max() < cells.min() or areas.min() > cells.max())
        words = (
            f"{context.train.annotation(objects.rows[i])}: {sides[i, 0]:.0f} x {sides[i, 1]:.0f}, IoU {reach[i]:.2f}"
            for i in worst
        )
        yield Finding(
            "error" if none else "warning" if share > MANY else "note",
            f"{path}.anchor_generator",
            f"{share:.1%} of {len(reach)} objects (of {objects.images} images) overlap no anchor by {thresh:g}",
            _suggestion(context, path, objects, levels, thresh, share) or "larger images, or other anchor sizes",
            words,
            len(lost),
            detail=histogram_text(objects.boxes, reach, levels, thresh),
        )


def _suggestion(
    context: CheckContext, path: str, objects: InputBoxes, levels: Sequence[Level], thresh: float, share: float
) -> str | None:
    """Sizes that reach more, in the config's words; None where there are none, or where nothing would be gained."""
    node: Mapping[str, Any] = context.experiment.tree["model"].get(path.removeprefix("model.")) or {}
    given = (node.get("anchor_generator") or {}).get("sizes")
    if not isinstance(given, list) or not given:  # a text where the config asks the environment
        return None
    counts = [len(level_sizes) for level_sizes in given]
    sizes = suggested_sizes(objects.boxes, sum(counts))
    ratios = node["anchor_generator"].get("aspect_ratios", (1.0,))
    octave = node["anchor_generator"].get("octave_scales", 1)
    offsets = np.cumsum([0, *counts]).tolist()
    per_level = [sizes[a:b] for a, b in itertools.pairwise(offsets)]
    if len(per_level) == 1:
        per_level *= len(levels)
    scaled = [[size * 2 ** (i / octave) for size in own for i in range(octave)] for own in per_level]
    ratios_per_level = by_level(ratios, [level.step for level in levels], "aspect_ratios")
    wanted = [Level(_cells(own, r), level.step) for own, r, level in zip(scaled, ratios_per_level, levels)]
    better = float((best_iou(objects.boxes, objects.sizes, wanted) < thresh).mean())
    if better > 0.9 * share:
        return None
    lists = ", ".join(f"[{', '.join(f'{s:g}' for s in sizes[a:b])}]" for a, b in itertools.pairwise(offsets))
    return f"sizes=[{lists}] would leave {better:.1%}; or feed larger images"


def suggested_sizes(boxes: np.ndarray, count: int) -> list[float]:
    """``count`` increasing sizes (square roots of areas) around which the boxes lie: k-means of their logarithms."""
    values = np.log(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)))
    low, high = np.quantile(values, [0.02, 0.98]).tolist()
    centres = np.linspace(low, high, count)
    for _ in range(50):
        nearest = np.abs(values[:, None] - centres).argmin(1)
        found = [values[nearest == k].mean() if (nearest == k).any() else centres[k] for k in range(count)]
        if np.allclose(found, centres):
            break
        centres = np.array(found)
    return [max(1.0, round(math.exp(value))) for value in sorted(centres)]


def _cells(sizes: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    sides = [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for size in sizes for ratio in ratios]
    return np.array([[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides])
