"""The roles of the data: Dataset, Augmentation, Sampler, and the Record that passes between them."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler as TorchSampler

from detkit.registry import Registry
from detkit.structures import Masks


@dataclasses.dataclass(frozen=True)
class Record:
    """One image with its annotations, before and between augmentations. A letters: annotations of the image.

    Args:
        image: ``(H, W, C)`` uint8, RGB.
        image_id: the dataset's id of the image.
        file_name: where the image came from, for messages.
        original_size: ``(height, width)`` in the file.
        boxes: ``(A, 4)`` float32 xyxy pixels of ``image``.
        classes: ``(A,)`` int64, 0..K-1.
        crowd: ``(A,)`` bool: a region of many objects; no target, but what lies on it is no mistake either.
        masks: A masks in the pixels of ``image``, or None where the dataset has boxes only.
        annotation_ids: ``(A,)`` int64, for messages.
        window: ``(x1, y1, x2, y2)``: the part of ``image`` that holds the picture, where an augmentation padded it;
            None: all of it.
        active_classes: ``(K,)`` bool: the classes that the image's dataset labels, where some of the K come from
            another dataset; None: all.
    """

    image: np.ndarray
    image_id: int | str
    file_name: str
    original_size: tuple[int, int]
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    masks: Masks | None
    annotation_ids: np.ndarray
    window: tuple[int, int, int, int] | None = None
    active_classes: np.ndarray | None = None

    def select(self, keep: np.ndarray) -> "Record":
        """The record with only the annotations where ``keep`` (A bools) is true."""
        rows = np.flatnonzero(keep)
        return dataclasses.replace(
            self,
            boxes=self.boxes[rows],
            classes=self.classes[rows],
            crowd=self.crowd[rows],
            masks=None if self.masks is None else self.masks[rows],
            annotation_ids=self.annotation_ids[rows],
        )


@dataclasses.dataclass(frozen=True)
class ObjectTable:
    """All A annotations of a dataset, without its images and masks, ordered by image.

    Args:
        images: ``(A,)`` int64: the index of each one's image.
        ids: ``(A,)`` annotation ids.
        classes: ``(A,)`` int64, 0..K-1.
        crowd: ``(A,)`` bool.
        boxes: ``(A, 4)`` float32 xyxy.
        extents: ``(A, 4)`` float32 xyxy: the box around each one's mask, in its image; NaN where it has none.
    """

    images: np.ndarray
    ids: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    extents: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class Dataset:
    """A list of images with annotations. Annotations lie in flat arrays, so that loader workers share them.

    Attributes:
        class_names: the K names, in the order of the class indices.
    """

    class_names: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Record:
        """The image and its annotations. Raises DataError (with the file's name) for an image it cannot read."""
        raise NotImplementedError

    def image_size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` without reading the image."""
        raise NotImplementedError

    def image_path(self, index: int) -> str | None:
        """The image's file; None for an image that is none."""
        return None

    def objects(self) -> ObjectTable:
        """All annotations in flat arrays. This default goes through ``coco``, without masks."""
        content = self.coco()
        number = {image["id"]: i for i, image in enumerate(content["images"])}
        entries = sorted(content["annotations"], key=lambda entry: number[entry["image_id"]])
        corners = np.array([entry["bbox"] for entry in entries], np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        return ObjectTable(
            images=np.array([number[entry["image_id"]] for entry in entries], np.int64),
            ids=np.array([entry["id"] for entry in entries], np.int64),
            classes=np.array([entry["category_id"] - 1 for entry in entries], np.int64),
            crowd=np.array([bool(entry.get("iscrowd")) for entry in entries], bool),
            boxes=corners,
            extents=np.full_like(corners, np.nan),
        )

    def coco(self) -> dict[str, Any]:
        """The ground truth in COCO's instances form (images, annotations, categories).

        ``category_id`` is class index + 1 and ``image_id`` is the record's, so evaluators need not know where the
        data come from.
        """
        raise NotImplementedError

    def summary(self) -> str:
        """A few lines on what was found: images, annotations a class, what was dropped and why."""
        raise NotImplementedError


class Augmentation:
    """A random change of a record that keeps image, boxes, masks and window in register."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        """The changed record. All chance comes from ``rng``."""
        raise NotImplementedError


class Sampler(TorchSampler[list[tuple[int, int]]]):
    """An endless stream of batches for one rank, the same in every run with the same seed.

    A batch is a list of ``(epoch, index)``: how often the dataset has been gone through before, and which image.
    Augmentations draw from (seed, epoch, index), so the number of loader workers changes nothing.

    Args:
        dataset: what is sampled.
        batch_size: images a batch on this rank.
        seed: the run's seed, equal on all ranks.
        rank, world_size: this process's share of the stream.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int, rank: int, world_size: int):
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        raise NotImplementedError


DATASETS: Registry[Dataset] = Registry("dataset", Dataset)
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation", Augmentation)
SAMPLERS: Registry[Sampler] = Registry("sampler", Sampler)
