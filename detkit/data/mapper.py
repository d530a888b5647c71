"""Mapper: from a dataset's record to the sample that the model takes."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from detkit.data.errors import Progress, naming_the_sample
from detkit.data.interfaces import Augmentation, Dataset, Record
from detkit.registry import DataError
from detkit.structures import Boxes, ImageInfo, Instances, MiniMasks, PolygonMasks, Sample

MaskFormat = Literal["polygon", "bitmap", "mini"]
"""How masks travel: as polygons where the data has them, or always as bitmaps, or as bitmaps inside their boxes."""

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
        mini_mask_size: side of the bitmaps of format ``mini``.
        train: drops crowds before the augmentations, which may then cut no object away that is none.
        keep_crowd: crowds stay, flagged by the target's field ``crowd``.
    """

    def __init__(
        self,
        dataset: Dataset,
        augmentations: Sequence[Augmentation] = (),
        *,
        seed: int = 0,
        mask_format: MaskFormat = "polygon",
        mini_mask_size: int = 56,
        train: bool = True,
        keep_crowd: bool = False,
    ):
        self.dataset, self.augmentations = dataset, tuple(augmentations)
        self.seed, self.mask_format, self.mini_mask_size = seed, mask_format, mini_mask_size
        self.train, self.keep_crowd = train, keep_crowd

    def __call__(self, epoch: int, index: int) -> Sample:
        """The image ``index`` as it is seen in ``epoch``.

        Raises:
            DataError: it cannot be read, or has a box or a polygon with a number that is not finite.
            SampleError: another error on the way; names the file, the annotations and the augmentation.
        """
        progress = Progress(index, type(self.dataset).__name__)
        with naming_the_sample(progress):
            record = self.dataset[index]
            check_finite(record)
            if self.train and not self.keep_crowd:
                record = record.select(~record.crowd)
            rng = np.random.default_rng((self.seed, epoch, index))
            for number, augmentation in enumerate(self.augmentations):
                progress.at(f"augmentation {number} ({type(augmentation).__name__})", record)
                record = augmentation(record, rng)
            progress.at("making a sample", record)
            return to_sample(record, self.mask_format, mini_mask_size=self.mini_mask_size, keep_crowd=self.keep_crowd)


def check_finite(record: Record) -> None:
    """Raises DataError, with file and annotation, for a box or polygon that has NaN or infinity in it.

    Nothing would be seen of one later: it has no area, and goes the way of objects that a crop has cut away.
    """
    wrong = ~np.isfinite(record.boxes).all(axis=1)
    if wrong.any():
        _refuse(record, wrong, f"the box {record.boxes[wrong][0].tolist()}")
    objects = record.masks.polygons if isinstance(record.masks, PolygonMasks) else []
    points = [polygon for polygons in objects for polygon in polygons]
    if points and not np.isfinite(np.concatenate(points)).all():
        finite = [all(np.isfinite(polygon).all() for polygon in polygons) for polygons in objects]
        _refuse(record, ~np.array(finite), "a polygon")


def _refuse(record: Record, wrong: np.ndarray, what: str) -> None:
    place = f"{record.file_name or record.image_id}: annotation {record.annotation_ids[wrong][0]}"
    raise DataError(f"{place} has {what} with a number that is not finite; correct it in the data")


def bare_record(image: np.ndarray, file_name: str = "") -> Record:
    """The record of an ``(H, W, C)`` uint8 image that nothing is known of."""
    return Record(
        image=image,
        image_id=0,
        file_name=file_name,
        original_size=(image.shape[0], image.shape[1]),
        boxes=np.zeros((0, 4), np.float32),
        classes=np.zeros(0, np.int64),
        crowd=np.zeros(0, bool),
        masks=None,
        annotation_ids=np.zeros(0, np.int64),
    )


def to_sample(
    record: Record, mask_format: MaskFormat = "polygon", *, mini_mask_size: int = 56, keep_crowd: bool = False
) -> Sample:
    """The record as a sample, with a target in the pixels of the image.

    The target holds every annotation but the crowds and those of which the augmentations have left nothing: no box, or
    no pixel of the mask. With ``keep_crowd`` it holds the crowds too, and a field ``crowd`` that says which they are.

    Args:
        record: after its augmentations.
        mask_format: what the target's masks are.
        mini_mask_size: side of the bitmaps of format ``mini``.
        keep_crowd: whether crowds stay.
    """
    targets = record.select(~record.crowd) if record.crowd.any() and not keep_crowd else record
    height, width = record.image.shape[:2]
    fields: dict[str, Any] = {
        "boxes": Boxes(torch.from_numpy(np.ascontiguousarray(targets.boxes, dtype=np.float32))),
        "classes": torch.from_numpy(np.ascontiguousarray(targets.classes, dtype=np.int64)),
        "annotation_ids": torch.from_numpy(np.ascontiguousarray(targets.annotation_ids, dtype=np.int64)),
    }
    if keep_crowd:
        fields["crowd"] = torch.from_numpy(np.ascontiguousarray(targets.crowd, dtype=bool))
    keep = fields["boxes"].nonempty(MIN_SIDE)
    if targets.masks is not None:
        masks = targets.masks.bitmaps() if mask_format == "bitmap" else targets.masks
        keep &= masks.areas() > 0
        fields["masks"] = MiniMasks.of(masks, mini_mask_size) if mask_format == "mini" else masks
    active = None if record.active_classes is None else torch.from_numpy(np.array(record.active_classes, dtype=bool))
    return Sample(
        image=torch.from_numpy(np.array(record.image.transpose(2, 0, 1), order="C")),
        original_size=record.original_size,
        image_id=record.image_id,
        file_name=record.file_name,
        target=Instances((height, width), info=ImageInfo(record.window, active), **fields)[keep],
        window=record.window,
        active_classes=active,
    )
