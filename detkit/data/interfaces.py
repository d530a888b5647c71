"""The roles of the data: Dataset, Augmentation, Sampler, and the Record that passes between them."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler as TorchSampler

from detkit.data.object_table import ObjectTable as ObjectTable
from detkit.registry import Registry, required
from detkit.structures import Boxes, CroppedMasks, Instances, KeypointSpec, Panoptic, Region, Transform


@dataclasses.dataclass(frozen=True)
class Record:
    """One image with its annotations, before and between augmentations.

    Args:
        image: ``(H, W, C)`` uint8, RGB.
        image_id: the dataset's id of the image.
        file_name: where the image came from, for messages.
        original_size: ``(height, width)`` in the file.
        objects: the A annotations in the pixels of ``image``: ``boxes``, ``classes`` (0..K-1), ``crowd`` (a region of
            many objects; no target, but what lies on it is no mistake either), ``annotation_ids`` for messages,
            ``masks`` or ``keypoints`` where the dataset has them, and any field of a user's own.
        maps: one value a pixel, each ``(H, W)``, by name, e.g. the class or the depth.
        valid_region: ``(x1, y1, x2, y2)``: the part of ``image`` that is no padding, where an augmentation padded it;
            None: all of it.
        active_classes: ``(K,)`` bool: the classes that the image's dataset labels, where some of the K come from
            another dataset; None: all.
        left_out: why objects of the image were left out on the way -> the ids of their annotations.
    """

    image: np.ndarray
    image_id: int | str
    file_name: str
    original_size: tuple[int, int]
    objects: Instances
    maps: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    valid_region: Region | None = None
    active_classes: np.ndarray | None = None
    left_out: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        """A field of the objects, e.g. ``record.boxes``."""
        fields = self.__dict__["objects"].fields if "objects" in self.__dict__ else {}  # none before it is unpickled
        if name not in fields:
            raise AttributeError(f"Record has no attribute '{name}', nor its objects; these have {', '.join(fields)}")
        return fields[name]

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of the image as it is now."""
        return self.image.shape[0], self.image.shape[1]

    def select(self, keep: Any) -> "Record":
        """The record with only some of the annotations: A bools, or their numbers."""
        rows = torch.as_tensor(keep)
        return self.with_objects(self.objects[rows if len(rows) else rows.long()])

    def with_objects(self, objects: Instances) -> "Record":
        """The record with other annotations, in the pixels of the same image."""
        return dataclasses.replace(self, objects=objects)

    def joined(self, other: "Record") -> "Record":
        """The record with the annotations of another one as well, whose image has the same size.

        It has the fields that both have. A class is active where both datasets label it.
        """
        names = [name for name in self.objects.fields if name in other.objects]
        parts = [Instances(self.size, **{name: part.objects.fields[name] for name in names}) for part in (self, other)]
        active = [part.active_classes for part in (self, other) if part.active_classes is not None]
        return dataclasses.replace(
            self, objects=Instances.cat(parts), active_classes=np.logical_and.reduce(active) if active else None
        )

    def covered(self, hidden: np.ndarray) -> "Record":
        """The annotations when something lies in front of them. The image stays as it is.

        Every field that has ``covered`` applies it to itself: masks are cut. Boxes of what was cut become those of the
        visible masks; annotations of which nothing is visible are dropped.

        Args:
            hidden: ``(H, W)`` bool: what is in front.
        """
        cover = torch.from_numpy(hidden)
        fields = {n: f.covered(cover) if hasattr(f, "covered") else f for n, f in self.objects.fields.items()}
        objects = self.objects.with_fields(**fields)
        if "masks" not in objects or "boxes" not in objects:
            return self.with_objects(objects)
        changed = CroppedMasks.around(self.objects.masks).areas() != objects.masks.areas()
        boxes = torch.where(changed[:, None], objects.masks.boxes().tensor, objects.boxes.tensor)
        return self.with_objects(objects.with_fields(boxes=Boxes(boxes))[~changed | objects.masks.nonempty()])

    def apply(self, transform: Transform, image: np.ndarray | None = None) -> "Record":
        """The record after a geometric transform of its image, maps and annotations.

        Where the transform cuts, boxes become those of the visible masks (without masks they are cut), and annotations
        of which nothing is visible are dropped. A box of which nothing was cut stays as it was annotated. Maps are
        padded with -1, the largest number of an unsigned type, or NaN.

        Args:
            transform: takes an image of the record's size.
            image: the image after the transform, where it has been made already.

        Raises:
            ValueError: the transform takes an image of another size.
        """
        if transform.input_size != self.size:
            raise ValueError(f"the transform takes an image of {transform.input_size}, the record's is {self.size}")
        record = self
        for step in transform.steps:
            record = record if step.is_identity else record._after(step, image)
        return record if image is None else dataclasses.replace(record, image=image)

    def _after(self, step: Transform, image: np.ndarray | None) -> "Record":
        objects, cuts = self.objects.transform(step), step.cuts
        if "boxes" in objects and "masks" in objects and (cuts or not step.keeps_boxes):
            stays = (self.objects.boxes.outlines(step).tensor == objects.boxes.tensor).all(1) & step.keeps_boxes
            boxes = torch.where(stays[:, None], objects.boxes.tensor, objects.masks.boxes().tensor)
            objects = objects.with_fields(boxes=Boxes(boxes))
        return dataclasses.replace(
            self,
            image=step.image(self.image) if image is None else self.image,
            objects=objects[objects.nonempty()] if cuts else objects,
            maps={name: step.label_map(values, _unknown(values.dtype)) for name, values in self.maps.items()},
            valid_region=step.region(self.valid_region),
        )


def _unknown(dtype: np.dtype) -> float:
    """What stands in a map for a pixel of unknown value."""
    if dtype.kind == "f":
        return float("nan")
    return np.iinfo(dtype).max if dtype.kind == "u" else -1 if dtype.kind == "i" else 0


NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"
"""Of an image in COCO's form: categories that it has no object of, and those of which not all objects are labelled."""
EVERY_CLASS = "every_class"
"""Of a crowd in COCO's form: whether it may hold objects of any class."""


class Dataset:
    """A list of images with annotations. Annotations lie in flat arrays, so that loader workers share them.

    Most formats subclass ``TableDataset``, which needs nothing but rows.

    Attributes:
        class_names: the K names, in the order of the class indices.
        category_ids: the K ids of the classes in the source; evaluators and result files use them.
        keypoint_names: the names of an object's P keypoints; none where the data has no keypoints.
        keypoint_flip_pairs: pairs of keypoints (0 is the first) that change places in a mirror.
        keypoint_sigmas: how exactly each keypoint can be marked, see ``KeypointSpec``; none for the usual ones.
        skeleton: pairs of keypoints that a drawing joins by a line.
        semantic_names: the classes of the semantic map, the first of all things together where the data has a panoptic
            map; none where the data has neither.
        stuff_ids: the ids in the source of the classes after the first, where it has ids.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    keypoint_names: tuple[str, ...] = ()
    keypoint_flip_pairs: tuple[tuple[int, int], ...] = ()
    keypoint_sigmas: tuple[float, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    semantic_names: tuple[str, ...] = ()
    stuff_ids: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()

    @property
    def keypoint_spec(self) -> KeypointSpec | None:
        """All that is said of an object's keypoints; None where the data has none."""
        rest = (self.skeleton, self.keypoint_sigmas, self.keypoint_flip_pairs)
        return KeypointSpec(self.keypoint_names, *rest) if self.keypoint_names else None

    @required
    def __len__(self) -> int:
        raise NotImplementedError

    @required
    def __getitem__(self, index: int) -> Record:
        """The image and its annotations. Raises DataError (with the file's name) for an image it cannot read."""
        raise NotImplementedError

    @required
    def image_size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` without reading the image."""
        raise NotImplementedError

    def image_path(self, index: int) -> str | None:
        """The image's file; None for an image that has none."""
        return None

    @required
    def image_id(self, index: int) -> int | str:
        """The source's id of the image, as in its record."""
        raise NotImplementedError

    def panoptic_map(self, index: int) -> Panoptic | None:
        """The image's panoptic map as it is labelled, in the pixels of its file; None where the data has none."""
        return None

    @property
    def has_panoptic_maps(self) -> bool:
        """Whether all images have a panoptic map, said without reading any."""
        return bool(self.semantic_names) and type(self).panoptic_map is not Dataset.panoptic_map

    def maps(self, index: int) -> dict[str, np.ndarray]:
        """What is labelled of each pixel, ``(H, W)`` by name: ``semantic`` (classes, 255 or -1 for unknown), ..."""
        panoptic = self.panoptic_map(index)
        return {} if panoptic is None else {"semantic": panoptic.semantic.numpy()}

    @required
    def objects(self) -> ObjectTable:
        """All annotations in flat arrays."""
        raise NotImplementedError

    @required
    def coco(self) -> dict[str, Any]:
        """The ground truth in COCO's instances form (images, annotations, categories), with the source's ids.

        ``categories`` are in the order of the classes, with ``category_ids``; ``image_id`` is the record's. An image
        may have LVIS's ``NEGATIVE`` and ``NOT_EXHAUSTIVE`` ids of categories, a crowd ``EVERY_CLASS``.
        """
        raise NotImplementedError

    @required
    def summary(self) -> str:
        """A few lines on what was found: images, annotations a class, what was dropped and why."""
        raise NotImplementedError


class Augmentation:
    """A random change of a record that keeps image, maps and annotations in register.

    One that only moves things gives its ``transform``; any other overrides ``__call__``.

    Attributes:
        num_others: how many other images it needs besides its own.
    """

    num_others: int = 0

    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Called when a config is loaded: makes one with these options. Raises ValueError as the constructor does."""
        cls(**options)

    def transform(self, record: Record, rng: np.random.Generator) -> Transform:
        """What happens to the geometry of this record. All randomness comes from ``rng``."""
        raise NotImplementedError

    def __call__(self, record: Record, rng: np.random.Generator, others: Sequence[Record] = ()) -> Record:
        """The changed record. All randomness comes from ``rng``.

        Args:
            record: is not edited.
            rng: the sample's own generator.
            others: ``num_others`` records of other images, after the augmentations before this one. Each is read and
                augmented when it is asked for.
        """
        return record.apply(self.transform(record, rng))


class Sampler(TorchSampler[list[tuple[int, int]]]):
    """An endless stream of batches for one rank, the same in every run with the same seed.

    A batch is a list of ``(epoch, index)``: how often the dataset has been gone through before, and which image.
    Augmentations draw from (seed, epoch, index), so the number of loader workers changes nothing.

    Args:
        dataset: what is sampled.
        batch_size: images a batch on this rank.
        seed: the run's seed, equal on all ranks.
        rank, world_size: this process's share of the stream.

    ``batch_size``, ``rank`` and ``world_size`` are read for every batch: a run that is resumed with another batch size
    goes through its earlier batches with the size that they had.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int, rank: int, world_size: int):
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.world_size = rank, world_size

    @required
    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        raise NotImplementedError


DATASETS: Registry[Dataset] = Registry("dataset", Dataset)
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation", Augmentation)
SAMPLERS: Registry[Sampler] = Registry("sampler", Sampler)
