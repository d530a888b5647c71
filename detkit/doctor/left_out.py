"""Objects that never reach the loss: what reading leaves out, and what the augmentations leave nothing of."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from detkit.data import Dataset, Record, TableDataset
from detkit.data.left_out import CROWD, NO_BOX, NO_PIXEL
from detkit.doctor.interfaces import CHECKS, Check, CheckContext, Finding
from detkit.doctor.stats import DatasetStats
from detkit.utils.progress import watched

SAMPLE = 1000
"""Images of each dataset that go through the augmentations."""


class Blank(Dataset):
    """A dataset's annotations on black images."""

    def __init__(self, dataset: TableDataset):
        super().__init__()
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Record:
        size, table = self.dataset.image_size(index), self.dataset.table
        return table.record(index, np.broadcast_to(np.uint8(0), (*size, 3)), table.images.file_name(index))


@CHECKS.register()
class LeftOut(Check):
    """Objects that no loss sees, by reason: what the reader left out or changed, crowds, and what is lost on the way.

    Up to 1,000 images of each training set go through the augmentations of the first epoch, without their pixels. An
    object may be cut away or covered there, be thinner than float32 tells apart, or have a mask without a pixel.

    Fix: none where it is meant; else the option that leaves it out, or the annotation.
    """

    needs = ("train",)
    quick = False

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        assert context.train is not None
        tally = Counter[tuple[str, str]]()  # the parts of one folder have one source
        for part in context.parts:
            tally.update({(part.source, words): count for words, count in part.tally.items()})
        for (source, words), count in tally.items():
            fix = "none where it is meant; the dataset's options say what becomes of it"
            yield Finding("note", source, words, fix, count=count)
        noted = {(part.source, words) for part in context.parts for words in part.notes}
        for source, words in sorted(noted):
            yield Finding("note", source, words, "none where it is meant")
        for part in context.train.parts:
            if isinstance(part.dataset, TableDataset):
                yield from _on_the_way(context, part, part.dataset)


def _on_the_way(context: CheckContext, part: DatasetStats, dataset: TableDataset) -> Iterable[Finding]:
    mapper = context.experiment.data.train_mapper(Blank(dataset), context.experiment.train.seed)
    chosen = part.sample(SAMPLE)
    found: dict[str, list[str]] = {}
    for index in watched(chosen, "augmentations", show=context.bar):
        for reason, ids in mapper(0, index).left_out.items():
            found.setdefault(reason, []).extend(f"annotation {id_} ({part.image(index)})" for id_ in ids)
    for reason, objects in found.items():
        if reason in (NO_BOX, NO_PIXEL):
            severity, fix = "warning", "correct the annotation, or feed larger images"
        else:
            severity, fix = "note", "none where it is meant" if reason == CROWD else "none, or cut less"
        what = f"objects that do not reach the loss, {reason} (of {len(chosen)} images)"
        yield Finding(severity, part.source, what, fix, objects)  # type: ignore[arg-type]
