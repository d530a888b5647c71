"""Training sets from which a model, or one of its heads, can learn nothing."""

from collections.abc import Iterable

import numpy as np

from detkit.data import TableDataset
from detkit.doctor.interfaces import CHECKS, Check, CheckContext, Finding
from detkit.doctor.stats import DatasetStats
from detkit.modeling.interfaces import KeypointHead, MaskHead


@CHECKS.register()
class NothingToLearn(Check):
    """A training set without an object, or without what a head of the model learns from: masks, keypoints.

    Such a training ends in its first step, or runs to its end and learns nothing. Crowds are no objects; a mask needs
    an extent, a keypoint a visibility above 0.

    Fix: the finding says it; a head that has nothing to learn from is set to null.
    """

    needs = ("train",)

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        assert context.train is not None
        if not context.train.count_objects().any():
            yield _no_object(context.train)
            return
        if context.test is not None and context.experiment.evaluators and not context.test.count_objects().any():
            what, fix = (
                "no object in the test set, so that no metric can be measured",
                "add annotations, or evaluators=[]",
            )
            yield Finding("warning", context.test.source, what, fix)
        for name, head in context.model.named_modules() if context.model is not None else ():
            fix = f"set model.{name}=null, or train on data that have them"
            for kind, what, missing in ((MaskHead, "mask", _no_masks), (KeypointHead, "keypoint", _no_keypoints)):
                parts = [part for part in context.train.parts if isinstance(head, kind) and missing(part)]
                for part in parts:
                    yield Finding("error", part.source, f"no object has a {what}, and the model has a {what} head", fix)


def _no_object(stats: DatasetStats) -> Finding:
    tally = [item for part in stats.parts for item in part.tally.items()]
    crowds, others = int(stats.objects.crowd.sum()), sum(n for words, n in tally if "of other classes" in words)
    left_out = ", ".join(f"{count} {words}" for words, count in tally if not words.startswith("images"))
    what, fix = "there is no object to learn from", "add annotations, or give another file"
    if crowds:
        what = f"there is no object to learn from: all {crowds} annotations are crowds, which are no targets"
        fix = "set iscrowd to 0 where an annotation is one object"
    elif others:
        what = f"there is no object to learn from: {others} are of classes that class_names leaves out"
        fix = "list in class_names the classes that have objects"
    elif left_out:
        what, fix = f"there is no object to learn from: {left_out}", "correct what was left out"
    return Finding("error", stats.source, what, fix)


def _no_masks(part: DatasetStats) -> bool:
    extents = part.objects.extents[~part.objects.crowd]
    return len(extents) > 0 and not (extents[:, 2:] > extents[:, :2]).all(1).any()


def _no_keypoints(part: DatasetStats) -> bool:
    if not part.count_objects().any():
        return False
    if not part.dataset.keypoint_names or not isinstance(part.dataset, TableDataset):
        return not part.dataset.keypoint_names
    table = part.dataset.table
    rows = np.flatnonzero(~table.crowd & (table.keypoints.lengths > 0)).tolist()
    return not any(table.keypoints[row][2::3].any() for row in rows)
