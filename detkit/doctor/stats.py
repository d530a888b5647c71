"""DatasetStats: what a dataset holds, as the checks need it: all but pixels, in flat arrays, and names for messages."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from detkit.config import Recipe
from detkit.config.recipe import Eager
from detkit.data import ConcatDataset, Dataset, ObjectTable, TableDataset
from detkit.data.formats.dataset import FormatDataset
from detkit.data.issues import Report
from detkit.data.samplers import evenly_spread

LARGEST = 2**27
"""Pixels of an image that a check lays out, in black; a file may claim any size."""


@dataclasses.dataclass(frozen=True)
class DatasetStats:
    """One dataset of I images and A annotations.

    Args:
        where: its path in the config.
        dataset: itself.
    """

    where: str
    dataset: Dataset

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K names."""
        return tuple(self.dataset.class_names)

    @functools.cached_property
    def objects(self) -> ObjectTable:
        """All annotations."""
        return self.dataset.objects()

    @functools.cached_property
    def paths(self) -> list[str | None]:
        """The images' files; None for an image that has none."""
        return [self.dataset.image_path(i) for i in range(len(self))]

    @functools.cached_property
    def parts(self) -> "tuple[DatasetStats, ...]":
        """The datasets that it is put together from, or itself."""
        if not isinstance(self.dataset, ConcatDataset):
            return (self,)
        inner = (DatasetStats(f"{self.where}.datasets[{i}]", part) for i, part in enumerate(self.dataset.datasets))
        return tuple(leaf for part in inner for leaf in part.parts)

    @property
    def source(self) -> str:
        """The file that it was read from, else its path in the config."""
        return getattr(self.dataset, "source", "") or self.where

    @property
    def tally(self) -> Mapping[str, int]:
        """What reading has left out or changed, in words -> how many."""
        return self.dataset.table.tally if isinstance(self.dataset, TableDataset) else {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a format's reader took in another way than a user may think."""
        return self.dataset.notes if isinstance(self.dataset, FormatDataset) else ()

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, most: int) -> list[int]:
        """At most so many images, evenly spread; not those that are too large to be laid out."""
        return [i for i in evenly_spread(len(self), most) if math.prod(self.dataset.image_size(i)) <= LARGEST]

    def count_objects(self) -> np.ndarray:
        """``(I,)`` objects of each image; crowds do not count."""
        return np.bincount(self.objects.images[~self.objects.crowd], minlength=len(self))

    def count_classes(self) -> np.ndarray:
        """``(K,)`` objects of each class; crowds do not count."""
        return np.bincount(self.objects.classes[~self.objects.crowd], minlength=len(self.class_names))

    def image(self, index: int) -> str:
        """An image in words: its file, or its number."""
        return self.paths[index] or f"image {index} of {self.where}"

    def annotation(self, row: int) -> str:
        """An annotation in words, with the id that stands in its file."""
        index = int(self.objects.images[row])
        if self.parts[0] is not self:
            for part in self.parts:
                if index < len(part):
                    first = int(np.searchsorted(self.objects.images, self.objects.images[row] - index))
                    return part.annotation(row - first)
                index -= len(part)
        return f"annotation {self.objects.ids[row]} ({self.image(index)})"


def with_report(value: Any, report: Report) -> Any:
    """A dataset's recipe as one that reads all rows: ``report`` is given every issue, where the first would stop it.

    Rows with errors are left out, so that the other checks can be made on the rest. Image files are not checked.
    """
    if isinstance(value, Eager):
        return Eager(with_report(value.recipe, report))
    if isinstance(value, list | tuple):
        return type(value)(with_report(v, report) for v in value)
    if not isinstance(value, Recipe):
        return value
    options = {name: with_report(option, report) for name, option in value.kwargs.items()}
    if not issubclass(value.cls, TableDataset):
        return Recipe(value.cls, options)
    if "check_images" in options:
        options["check_images"] = 0
    return Recipe(type(value.cls.__name__, (value.cls,), {"report": staticmethod(report)}), options)
