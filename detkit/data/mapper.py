"""Mapper: from a dataset's record to the sample that the model takes."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from detkit.data.datasets.rows import MIN_SIDE
from detkit.data.errors import naming_the_sample
from detkit.data.interfaces import Augmentation, Dataset, Record
from detkit.data.left_out import CROWD, NO_BOX, NO_PIXEL, with_reason
from detkit.registry import DataError
from detkit.structures import Boxes, CroppedMasks, ImageInfo, Instances, PolygonMasks, Sample

MaskFormat = Literal["polygon", "bitmap", "mini"]
"""How masks travel: as polygons where the data has them, else as bitmaps inside their boxes; as bitmaps of the whole
image; or as small bitmaps of one size that fill their boxes."""


class Mapper:
    """``(epoch, index)`` -> ``Sample``.

    All randomness in a sample comes from (seed, epoch, index), so it is the same whichever process makes it, and in a
    run that was resumed.

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
        record = self.record(index, np.random.default_rng((self.seed, epoch, index)))
        with naming_the_sample(index, type(self.dataset).__name__) as progress:
            progress.at("making a sample", record)
            return to_sample(record, self.mask_format, mini_mask_size=self.mini_mask_size, keep_crowd=self.keep_crowd)

    def record(self, index: int, rng: np.random.Generator, num_augmentations: int | None = None) -> Record:
        """The image ``index`` after the first so many augmentations, None: all. Raises as a call does."""
        with naming_the_sample(index, type(self.dataset).__name__) as progress:
            record = self.dataset[index]
            check_record(record)
            check_finite(record)
            if self.train and not self.keep_crowd:
                given, record = record.objects, record.select(~record.objects.crowd)
                left_out = with_reason(record.left_out, CROWD, given, record.objects)
                record = dataclasses.replace(record, left_out=left_out)
            for number, augmentation in enumerate(self.augmentations[:num_augmentations]):
                before = record
                progress.at(f"augmentation {number} ({type(augmentation).__name__})", record)
                if augmentation.num_others:
                    record = augmentation(record, rng, OtherRecords(self, index, number, augmentation.num_others, rng))
                else:
                    record = augmentation(record, rng)
                check_record(record)
                reason = f"cut away or covered by {type(augmentation).__name__}"
                left_out = with_reason(before.left_out, reason, before.objects, record.objects)
                record = dataclasses.replace(record, left_out=left_out)
            return record


class OtherRecords(Sequence[Record]):
    """Records of other images for an augmentation of several, each made when it is asked for.

    They depend on the state of ``rng`` alone, not on which of them are asked for, nor in which order.

    Args:
        mapper: makes them.
        index: the image that they are not, unless the dataset has no other.
        num_augmentations: how many of the mapper's augmentations they go through.
        num: how many there are.
        rng: the sample's generator.
    """

    def __init__(self, mapper: Mapper, index: int, num_augmentations: int, num: int, rng: np.random.Generator):
        self.mapper, self.own_index, self.num_augmentations = mapper, index, num_augmentations
        self.seeds = rng.integers(2**63, size=num).tolist()

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        rng = np.random.default_rng(self.seeds[number])
        images = len(self.mapper.dataset)
        index = (self.own_index + int(rng.integers(1, images))) % images if images > 1 else 0
        return self.mapper.record(index, rng, self.num_augmentations)


def check_record(record: Any) -> None:
    """Raises TypeError or ValueError for what a dataset or an augmentation must not give."""
    if not isinstance(record, Record):
        raise TypeError(f"expected a Record, got {type(record).__name__}")
    image = record.image
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
        given = f"{getattr(image, 'dtype', '')} {tuple(getattr(image, 'shape', ()))}"
        raise TypeError(f"expected the image as a numpy array (H, W, C) of uint8, got {type(image).__name__} {given}")
    if record.objects.image_size != record.size:
        raise ValueError(
            f"the image is {record.size}, and its objects are those of one of {record.objects.image_size}; change both"
            " by record.apply(transform), or by Augmentation.transform"
        )


def check_finite(record: Record) -> None:
    """Raises DataError, with file and annotation, for a box or polygon that has NaN or infinity in it.

    Later such an object would vanish without a word, as one without area.
    """
    objects = record.objects
    wrong = ~objects.boxes.tensor.isfinite().all(1)
    if wrong.any():
        _refuse(record, wrong, f"the box {objects.boxes[wrong][0].tolist()}")
    shapes = objects.masks.polygons if "masks" in objects and isinstance(objects.masks, PolygonMasks) else []
    points = [polygon for polygons in shapes for polygon in polygons]
    if points and not np.isfinite(np.concatenate(points)).all():
        finite = [all(np.isfinite(polygon).all() for polygon in polygons) for polygons in shapes]
        _refuse(record, ~torch.tensor(finite), "a polygon")


def _refuse(record: Record, wrong: torch.Tensor, what: str) -> None:
    place = f"{record.file_name or record.image_id}: annotation {record.objects.annotation_ids[wrong][0]}"
    raise DataError(f"{place} has {what} with a number that is not finite; correct it in the data")


def bare_record(image: np.ndarray, file_name: str = "") -> Record:
    """The record of an ``(H, W, C)`` uint8 image without annotations."""
    size = (image.shape[0], image.shape[1])
    numbers = torch.zeros(0, dtype=torch.int64)
    objects = Instances(size, boxes=Boxes([]), classes=numbers, crowd=numbers.bool(), annotation_ids=numbers)
    return Record(image=image, image_id=0, file_name=file_name, original_size=size, objects=objects)


def to_sample(
    record: Record, mask_format: MaskFormat = "polygon", *, mini_mask_size: int = 56, keep_crowd: bool = False
) -> Sample:
    """The record as a sample, with a target in the pixels of the image.

    The target holds every annotation, with all its fields, but the crowds and those of which the augmentations have
    left nothing: no box, or no pixel of the mask. With ``keep_crowd`` it holds the crowds too, and a field ``crowd``
    that says which they are. What is left out, and why, is in ``left_out``.

    Args:
        record: after its augmentations.
        mask_format: what the target's masks are.
        mini_mask_size: side of the bitmaps of format ``mini``.
        keep_crowd: whether crowds stay.
    """
    objects, left_out = record.objects, record.left_out
    if not keep_crowd:
        left_out = with_reason(left_out, CROWD, objects, ~objects.crowd)
        objects = (objects[~objects.crowd] if objects.crowd.any() else objects).without("crowd")
    keep = objects.boxes.nonempty(MIN_SIDE)
    left_out = with_reason(left_out, NO_BOX, objects, keep)
    if "masks" in objects:
        masks = objects.masks.bitmaps() if mask_format == "bitmap" else objects.masks
        there = masks.nonempty()
        left_out = with_reason(left_out, NO_PIXEL, objects, there | ~keep)
        keep &= there
        objects = objects.with_fields(
            masks=CroppedMasks.mini(masks, mini_mask_size) if mask_format == "mini" else masks
        )
    active = None if record.active_classes is None else torch.from_numpy(np.array(record.active_classes, dtype=bool))
    info = ImageInfo(record.valid_region, active)
    return Sample(
        image=torch.from_numpy(np.array(record.image.transpose(2, 0, 1), order="C")),
        original_size=record.original_size,
        image_id=record.image_id,
        file_name=record.file_name,
        target=Instances(record.size, info=info, **objects.fields)[keep],
        maps={name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in record.maps.items()},
        valid_region=record.valid_region,
        active_classes=active,
        left_out=left_out,
    )
