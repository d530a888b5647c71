"""Objects that do not reach the loss: counted by reason, and shown in the log."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor

from detkit.structures import Instances, Sample

logger = logging.getLogger(__name__)
CROWD = "crowds, which are no targets"
NO_BOX = "with a box without area"
NO_PIXEL = "with a mask without a pixel"

LeftOut = Mapping[str, Sequence[int]]
"""Why objects were left out -> the ids of their annotations."""


def with_reason(left_out: LeftOut, reason: str, objects: Instances, kept: Instances | Tensor) -> LeftOut:
    """``left_out`` with those of ``objects`` that are not among the kept ones, or are not kept (N bools)."""
    if "annotation_ids" not in objects:
        return left_out
    ids = objects.annotation_ids
    if isinstance(kept, Instances):
        others = kept.annotation_ids.tolist() if "annotation_ids" in kept else []
        gone = sorted({*ids.tolist()}.difference(others))
    else:
        gone = ids[~kept].tolist()
    return {**left_out, reason: [*left_out.get(reason, ()), *gone]} if gone else left_out


class LeftOutCounter:
    """Counts what samples lost; logs it when there is something, and whenever it has become ten times as much.

    Attributes:
        counts: reason -> objects.
        objects: all objects that were seen, left out or not.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.objects = 0
        self._first: dict[str, str] = {}
        self._next = 1

    def add(self, sample: Sample) -> None:
        """Takes a sample of a training."""
        self.objects += 0 if sample.target is None else len(sample.target)
        for reason, ids in sample.left_out.items():
            self.counts[reason] += len(ids)
            self.objects += len(ids)
            self._first.setdefault(reason, f"annotation {ids[0]} of {sample.file_name or sample.image_id}")

    def log(self) -> None:
        """Writes the line, if it is time for one."""
        if self.counts.total() >= self._next:
            self._next = 10 * self.counts.total()
            reasons = (f"{count} {reason} (first: {self._first[reason]})" for reason, count in self.counts.items())
            what = "left out of the loss so far: %d of %d objects: %s"
            logger.info(what, self.counts.total(), self.objects, "; ".join(reasons))
