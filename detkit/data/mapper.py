"""Mapper: from a dataset's record to the sample that the model takes."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from detkit.data.interfaces import Augmentation, Dataset, Record
from detkit.structures import Boxes, Instances, Sample

MaskFormat = Literal["polygon", "bitmap"]
"""How masks travel: as polygons where the data has them, or always as bitmaps."""

MIN_SIDE = 1e-5
"""Pixels. A thinner box has no area in float32, and its logarithm would end the training."""


class Mapper:
    """``(epoch, index)`` -> ``Sample``.

    All chance in a sample comes from (seed, epoch, index), so it is the same whichever process makes it, and in a run
    that was resumed.

    Args:
        dataset: where records come from.
        augmentations: applied in order.
        seed: the run's seed.
        mask_format: what the target's masks are; polygons are augmented as polygons either way.
        train: drops crowds before the augmentations, which may then cut no object away that is none.
    """

    def __init__(
        self,
        dataset: Dataset,
        augmentations: Sequence[Augmentation] = (),
        *,
        seed: int = 0,
        mask_format: MaskFormat = "polygon",
        train: bool = True,
    ):
        self.dataset, self.augmentations = dataset, tuple(augmentations)
        self.seed, self.mask_format, self.train = seed, mask_format, train

    def __call__(self, epoch: int, index: int) -> Sample:
        """The image ``index`` as it is seen in ``epoch``. Raises DataError where it cannot be read."""
        record = self.dataset[index]
        if self.train:
            record = record.select(~record.crowd)
        rng = np.random.default_rng((self.seed, epoch, index))
        for augmentation in self.augmentations:
            record = augmentation(record, rng)
        return to_sample(record, self.mask_format)


def to_sample(record: Record, mask_format: MaskFormat = "polygon") -> Sample:
    """The record as a sample, with a target in the pixels of the image.

    The target holds every annotation but the crowds and those of which the augmentations have left nothing: no box, or
    no pixel of the mask.
    """
    targets = record.select(~record.crowd) if record.crowd.any() else record
    height, width = record.image.shape[:2]
    fields: dict[str, Any] = {
        "boxes": Boxes(torch.from_numpy(np.ascontiguousarray(targets.boxes, dtype=np.float32))),
        "classes": torch.from_numpy(np.ascontiguousarray(targets.classes, dtype=np.int64)),
    }
    if targets.masks is not None:
        fields["masks"] = targets.masks.bitmaps() if mask_format == "bitmap" else targets.masks
    keep = fields["boxes"].nonempty(MIN_SIDE)
    if "masks" in fields:
        keep &= fields["masks"].areas() > 0
    return Sample(
        image=torch.from_numpy(np.array(record.image.transpose(2, 0, 1), order="C")),
        original_size=record.original_size,
        image_id=record.image_id,
        file_name=record.file_name,
        target=Instances((height, width), **fields)[keep],
    )
