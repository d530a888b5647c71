"""The classes: whether there is anything to learn of each, and whether training and test mean the same."""

import difflib
from collections.abc import Iterable

import numpy as np

from detkit.doctor.interfaces import CHECKS, Check, CheckContext, Finding

FEW = 10
"""Objects; of fewer, little can be learned."""
ALIKE = 0.88
"""How alike the names of a rare and a frequent class are, of which one may be a misspelling; of equal ones it is 1."""
UNEVEN = 100.0
"""How many times more objects the most frequent class may have than the rarest."""


@CHECKS.register()
class ClassCounts(Check):
    """Classes of which the training set has no object or very few, or that are very uneven; unused test classes.

    A class without objects takes a row in every class layer and is never predicted; of fewer than 10 objects little is
    learned. In the test set a class without objects has no AP.

    Fix: list the classes that are meant in the dataset's ``class_names``, correct misspelt labels, or add images.
    """

    needs = ("train",)

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        assert context.train is not None
        names, counts = context.train.class_names, context.train.count_classes()
        source = context.train.source
        unused = [name for name, count in zip(names, counts) if count == 0]
        if unused:
            fix = "list the others in class_names, or add images of them"
            yield Finding("warning", source, "classes without an object in the training set", fix, unused)
        tiny = {name: count for name, count in zip(names, counts) if 0 < count < FEW}
        if tiny:
            what = f"classes of fewer than {FEW} training objects"
            alike = {name: _alike(name, [other for other in names if other not in tiny]) for name in tiny}
            fix = "add images, or expect little of them"
            fix = f"correct the labels of those that are misspelt, else {fix}" if any(alike.values()) else fix
            yield Finding("warning", source, what, fix, [f"{name}: {tiny[name]}{alike[name]}" for name in tiny])
        used = counts[counts >= FEW]
        if len(used) and used.max() > UNEVEN * used.min():
            most, least = int(counts.argmax()), int(np.where(counts >= FEW, counts, counts.max() + 1).argmin())
            examples = [f"{names[most]}: {counts[most]}", f"{names[least]}: {counts[least]}"]
            what = f"very uneven classes: {counts[most] / counts[least]:.0f} to 1"
            yield Finding("note", source, what, "look at the rare ones' AP by class", examples)
        if context.test is not None and context.test.class_names == names:
            unused = [
                n for n, here, there in zip(names, context.test.count_classes(), counts) if here == 0 and there > 0
            ]
            if unused:
                what = "classes without an object in the test set: they get no AP"
                yield Finding("note", context.test.source, what, "none, or choose other test images", unused)


def _alike(name: str, frequent: Iterable[str]) -> str:
    """The frequent class that a rare one may be a misspelling of, in words; empty where none is."""

    known = {other.strip().lower(): other for other in frequent}
    near = difflib.get_close_matches(name.strip().lower(), known, n=1, cutoff=ALIKE)
    return f" (is it '{known[near[0]]}'?)" if near else ""


@CHECKS.register()
class SameClasses(Check):
    """Training and test sets whose classes differ by name or order.

    A prediction's class is a number, so metrics on other classes mean nothing; training refuses to start.

    Fix: give the test set the training set's ``class_names``.
    """

    needs = ("train", "test")

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        assert context.train is not None
        assert context.test is not None
        ours, theirs = context.train.class_names, context.test.class_names
        if ours == theirs:
            return
        apart = sorted(set(ours) ^ set(theirs))
        what = "its classes are not those of data.train_dataset" if apart else "its classes are in another order"
        fix = f"set data.test_dataset.class_names to [{', '.join(ours[:8])}{', ...' if len(ours) > 8 else ''}]"
        yield Finding("error", "data.test_dataset", what, fix, apart or [n for n, m in zip(theirs, ours) if n != m])
