"""The annotations against their images and against each other."""

from collections.abc import Iterable

import numpy as np

from detkit.data.issues import Issue
from detkit.doctor.interfaces import CHECKS, Check, CheckContext, Finding
from detkit.doctor.stats import DatasetStats

LOOSE_IOU, LOOSE_PIXELS = 0.8, 2.0
"""A box is its mask's where they overlap that much, or no side is further off; tools round boxes to whole pixels."""
MOSTLY = 0.5
"""A share of images without objects from which on it is worth a note."""


@CHECKS.register()
class Annotations(Check):
    """Rows of the data that the reader refuses, leaves out or changes.

    A dataset stops at the first error, so a file with many takes many tries. Issues are found by the reader's own
    rules: categories, images and annotations without the fields they need, ids given twice, unknown categories and
    images, boxes that are not finite, without area or over the edge, malformed masks and keypoints.

    Fix: correct the entries that are named, or let the dataset's ``invalid_boxes`` and ``invalid_masks`` say what
    becomes of them.
    """

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        groups: dict[tuple[str, str, str], list[Issue]] = {}
        for issue in context.issues:
            groups.setdefault((issue.source, issue.kind, issue.severity), []).append(issue)
        for (source, kind, _), issues in groups.items():
            first = issues[0]
            examples = [f"{issue.entry} ({issue.place})" if issue.entry else issue.place for issue in issues]
            fix = first.fix or "give the entry the fields that it needs"
            yield Finding(first.severity, source, f"{kind}: {first.what}", fix, examples)


@CHECKS.register()
class BoxesFitMasks(Check):
    """Boxes that are not around their masks: an IoU with the mask's box below 0.8, and a side off by over 2 pixels.

    The box head and the mask head then learn from different objects: mixed up annotations, boxes in another format or
    of another image size. Crowds are left out.

    Fix: compute the boxes from the masks.
    """

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        for part in context.parts:
            table = part.objects
            boxes, extents = table.boxes.astype(np.float64), table.extents.astype(np.float64)
            off = np.abs(boxes - extents).max(1)
            bad = (off > LOOSE_PIXELS) & (_paired_iou(boxes, extents) < LOOSE_IOU) & ~table.crowd
            rows = np.flatnonzero(bad)
            if len(rows):
                words = (f"{part.annotation(r)}: box {_box(boxes[r])}, mask {_box(extents[r])}" for r in rows.tolist())
                fix = "compute the boxes from the masks"
                yield Finding("warning", part.source, "boxes that do not fit their masks", fix, words, len(rows))


@CHECKS.register()
class IdenticalObjects(Check):
    """Annotations of one image with the same class, box and mask: one object that counts twice.

    Fix: remove all but one.
    """

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        for part in context.parts:
            pairs = _repeated(part)
            if len(pairs):
                words = (f"{part.objects.ids[a]} = {part.annotation(b)}" for a, b in pairs)
                what = "annotations that repeat another of their image: class, box and extent"
                yield Finding("warning", part.source, what, "remove all but one", words, len(pairs))


@CHECKS.register()
class EmptyImages(Check):
    """Images without objects: those whose annotations are all crowds, and sets that are mostly empty.

    An image that holds nothing but crowds is full of objects, and training takes it for background. A set of which most
    images are empty often lost its annotations on the way.

    Fix: ``keep_empty: false`` leaves them out of the training set.
    """

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        for part in context.parts:
            empty = part.count_objects() == 0
            crowded = np.isin(np.arange(len(part)), part.objects.images[part.objects.crowd])
            rows = np.flatnonzero(empty & crowded).tolist()
            if rows and part.where.startswith("data.train_dataset"):
                what, fix = "training images with nothing but crowds", "keep_empty: false leaves them out"
                yield Finding("warning", part.source, what, fix, map(part.image, rows), len(rows))
            rows = np.flatnonzero(empty & ~crowded).tolist()
            if len(rows) > MOSTLY * len(part):
                what, fix = f"most of the {len(part)} images have no annotation", "check whether annotations were lost"
                yield Finding("warning", part.source, what, fix, map(part.image, rows), len(rows))


@CHECKS.register()
class CrowdedImages(Check):
    """Images with more objects than the model may propose or give, or than the evaluator counts.

    What is beyond a limit cannot be found, whatever the model learns: recall ends at the limit.

    Fix: raise the option that is named.
    """

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        exp = context.experiment
        for stats, names in (
            (context.train, ("post_nms_topk_train",)),
            (context.test, ("post_nms_topk_test", "max_detections")),
        ):
            if stats is None:
                continue
            counts = stats.count_objects()
            most = int(counts.max(initial=0))
            for key in ("model", "evaluators"):
                for path, name, limit in _options(exp.tree.get(key), key):
                    if name in names and limit < most:
                        rows = np.flatnonzero(counts > limit)
                        rows = rows[np.argsort(-counts[rows], kind="stable")]
                        words = (f"{stats.image(i)}: {counts[i]} objects" for i in rows.tolist())
                        what = f"images with more objects than {path} allows ({limit})"
                        yield Finding("warning", path, what, f"raise it to {most} or more", words, len(rows))


def _repeated(stats: DatasetStats) -> np.ndarray:
    """``(P, 2)`` rows that repeat one another, by the sum of their bits in random units, which is fast to sort."""
    table = stats.objects
    shapes = np.concatenate([table.boxes, table.extents], 1).astype(np.float32)
    parts = [table.images, table.classes, table.crowd, *shapes.T.view(np.uint32)]
    units = np.random.default_rng(0).integers(1, 2**63, len(parts), np.uint64) | np.uint64(1)
    keys = np.zeros(len(table), np.uint64)
    for values, unit in zip(parts, units):
        keys += values.astype(np.uint64) * unit
    order = np.argsort(keys, kind="stable")
    repeated = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    first, second = order[repeated], order[repeated + 1]
    same = np.all([values[first] == values[second] for values in parts], 0)
    return np.column_stack([first, second])[same]


def _options(node: object, path: str) -> Iterable[tuple[str, str, int]]:
    """``(path, name, value)`` of every whole number in a config's tree."""
    if isinstance(node, dict):
        for name, value in node.items():
            if isinstance(value, int) and not isinstance(value, bool):
                yield f"{path}.{name}", str(name), value
            yield from _options(value, f"{path}.{name}")
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _options(value, f"{path}[{number}]")


def _paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``(N,)`` IoU of boxes row by row; 1 where a row is NaN, so that what has no mask fits it."""
    overlap = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - overlap
    return np.nan_to_num(overlap / np.maximum(union, 1e-9), nan=1.0)


def _box(box: np.ndarray) -> str:
    return f"[{', '.join(f'{value:.0f}' for value in box)}]"
