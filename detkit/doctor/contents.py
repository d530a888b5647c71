"""What a dataset holds, as the doctor looks at it: everything but pixels, in flat arrays, with words for each entry."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from detkit.config import Recipe
from detkit.config.recipe import Eager
from detkit.data import CocoInstances, ConcatDataset, Dataset, ObjectTable
from detkit.data.datasets.coco_json import CocoFile
from detkit.data.faults import Report


@dataclasses.dataclass(frozen=True)
class Contents:
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
    def sizes(self) -> np.ndarray:
        """``(I, 2)`` height and width."""
        return np.array([self.dataset.image_size(i) for i in range(len(self))], np.int64).reshape(-1, 2)

    @functools.cached_property
    def paths(self) -> list[str | None]:
        """The images' files; None for what is none."""
        return [self.dataset.image_path(i) for i in range(len(self))]

    @functools.cached_property
    def parts(self) -> "tuple[Contents, ...]":
        """The datasets that it is put together from, or itself."""
        if not isinstance(self.dataset, ConcatDataset):
            return (self,)
        inner = (Contents(f"{self.where}.datasets[{i}]", part) for i, part in enumerate(self.dataset.datasets))
        return tuple(leaf for part in inner for leaf in part.parts)

    @property
    def source(self) -> str:
        """The file that it was read from, else its path in the config."""
        return getattr(self.dataset, "json_file", None) or self.where

    def __len__(self) -> int:
        return len(self.dataset)

    def count_objects(self) -> np.ndarray:
        """``(I,)`` objects of each image; crowds are none."""
        return np.bincount(self.objects.images[~self.objects.crowd], minlength=len(self))

    def image(self, index: int) -> str:
        """An image in words: its file, or its number."""
        return self.paths[index] or f"image {index} of {self.where}"

    def annotation(self, row: int) -> str:
        """An annotation in words."""
        index = int(self.objects.images[row])
        if self.parts[0] is not self:  # say the ids that stand in the files
            for part in self.parts:
                if index < len(part):
                    first = int(np.searchsorted(self.objects.images, self.objects.images[row] - index))
                    return part.annotation(row - first)
                index -= len(part)
        return f"annotation {self.objects.ids[row]} ({self.image(index)})"


def collecting(value: Any, report: Report) -> Any:
    """A recipe of a dataset whose files are read to the end: ``report`` is given what would have stopped it.

    Nothing is left of annotations with faults, so what is built can be looked at further. Images are not checked.
    """
    if isinstance(value, Eager):
        return Eager(collecting(value.recipe, report))
    if isinstance(value, list | tuple):
        return type(value)(collecting(v, report) for v in value)
    if not isinstance(value, Recipe):
        return value
    options = {name: collecting(option, report) for name, option in value.kwargs.items()}
    if not issubclass(value.cls, CocoInstances):
        return Recipe(value.cls, options)
    return Recipe(_collector(value.cls, report), {**options, "check_images": 0})


def _collector(cls: type[CocoInstances], report: Report) -> type[CocoInstances]:
    class Collector(cls):  # type: ignore[misc, valid-type]
        """The dataset, whose file's faults go to the report instead of ending it."""

        def _load(self) -> CocoFile:
            return CocoFile.load(self.json_file, report)

    return Collector


def some(items: Iterator[str] | list[str], most: int = 1000) -> list[str]:
    """The first of many examples: enough to work with, not so many that a report takes minutes to write."""
    return [item for item, _ in zip(items, range(most))]
