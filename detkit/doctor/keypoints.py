"""Keypoints against their boxes, against the other data, and against the model."""

from collections.abc import Iterable

import numpy as np

from detkit.data import RandomFlip, TableDataset
from detkit.doctor.interfaces import CHECKS, Check, CheckContext, Finding
from detkit.doctor.stats import DatasetStats

FAR = 0.25
"""In parts of a box's side: a labelled keypoint that is further outside is likely a mistake."""


@CHECKS.register()
class KeypointsFit(Check):
    """Keypoints that differ between training set, test set and model, that the model does not learn, that lie far
    outside of their objects' boxes, or that a mirror would mix up, as no two of them are named left and right.

    A keypoint is known by its place in the list, so metrics of others mean nothing; a head learns only what is in the
    box; and a mirror that does not exchange left and right teaches both for either.

    Fix: give both sets the same keypoints, correct boxes or points, and name the sides (or give ``flip_pairs`` in the
    COCO file's category, ``flip_idx`` in YOLO's data.yaml).
    """

    needs = ("train",)

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        assert context.train is not None
        spec = context.train.dataset.keypoint_spec
        test = None if context.test is None else context.test.dataset.keypoint_spec
        if spec is not None:
            learned = context.model.keypoints if context.model is not None else None
            for where, other in (("data.test_dataset", test), ("model", learned)):
                if other is not None and other.names != spec.names:
                    what = f"its keypoints ({_few(other.names)}) are not those of data.train_dataset"
                    fix = f"make them {_few(spec.names)}, in this order"
                    fix = fix if where != "model" else "set keypoint_head.keypoints=null, which takes the data's"
                    yield Finding("error", where, what, fix)
            if context.model is not None and learned is None:
                what = f"objects have keypoints ({_few(spec.names)}), and the model has no keypoint head to learn them"
                fix = "none, if so it is; else add a keypoint_head, as coco/keypoint_rcnn_R_50_FPN_1x has"
                yield Finding("note", "model", what, fix)
            mirrored = any(issubclass(recipe.cls, RandomFlip) for recipe in context.experiment.data.train_augmentations)
            if mirrored and len(spec.names) > 1 and not spec.flip_pairs:
                what = f"images are mirrored, and no two keypoints ({_few(spec.names)}) are a left and a right one"
                fix = "none, if so it is; else name the sides, or give flip_pairs (COCO) or flip_idx (YOLO)"
                yield Finding("note", context.train.source, what, fix)
        for part in context.parts:
            rows = _outside(part)
            if len(rows):
                what = "labelled keypoints far outside of their object's box, which a head cannot learn"
                words = map(part.annotation, rows.tolist())
                yield Finding("warning", part.source, what, "correct the boxes or the keypoints", words, len(rows))


def _outside(part: DatasetStats) -> np.ndarray:
    """The rows of objects with a keypoint outside of their box by more than ``FAR``."""
    if not isinstance(part.dataset, TableDataset) or part.dataset.keypoint_spec is None:
        return np.zeros(0, np.int64)
    table = part.dataset.table
    keep = (table.keypoints.lengths > 0) & ~table.crowd
    rows = np.flatnonzero(keep)
    points = table.keypoints.select(keep).data.reshape(len(rows), -1, 3)
    boxes = table.boxes[rows].astype(np.float64)[:, None]
    margin = FAR * (boxes[..., 2:] - boxes[..., :2]) + 1
    xy = points[..., :2]
    outside = ((xy < boxes[..., :2] - margin) | (xy > boxes[..., 2:] + margin)).any(-1) & (points[..., 2] > 0)
    return rows[outside.any(1)]


def _few(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
