"""The data of an experiment."""

import dataclasses
import functools
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from torch import nn

from detkit import data
from detkit.config import ConfigError, Count, CountOrZero, Recipe, built
from detkit.config.recipe import changed, parts_of
from detkit.data import Mapper, TableDataset, test_loader, train_loader
from detkit.data.images import UNREADABLE, ImageReading
from detkit.data.interfaces import Augmentation, Dataset, Sampler
from detkit.data.issues import Issue
from detkit.data.loader import SKIP_HINT
from detkit.registry import DataError
from detkit.structures import Sample, Tiling
from detkit.utils.distributed import rank, world_size
from detkit.views import Views, as_tested


@dataclasses.dataclass(kw_only=True)
class DataConfig:
    """Where images come from and what happens to them on the way to the model.

    Args:
        train_dataset: what is learned from; its class names are the model's.
        test_dataset: what is evaluated.
        train_augmentations: applied to training images, in order.
        test_augmentations: applied to test images, in order.
        test_tiles: test images, and those of a ``Predictor``, are predicted in overlapping tiles of their files'
            pixels, each of which goes through ``test_augmentations``, ``test_batch_size`` at a time; null: as a whole.
        test_views: test images, and those of a ``Predictor``, are seen at several sizes and mirrored, and what is found
            is merged (test-time augmentation); null: once.
        sampler: the order of the training images.
        batch_size: training images a forward pass, over all processes; ``solver.accumulate`` of them are a step.
        test_batch_size: test images a forward pass, on each process.
        num_workers: loader processes beside each training process; 0 loads in the process itself.
        mask_format: how masks travel: polygon: as polygons where the data has them, else as bitmaps inside their
            boxes; bitmap: as bitmaps of the whole image; mini: as small bitmaps that fill their boxes, which take
            little memory and lose what is finer than a cell.
        mini_mask_size: side of the bitmaps of mask_format mini, in cells.
        keep_crowd: crowd regions stay in the training targets, flagged, for models that spare what lies on them; else
            they are left out.
        skip_unreadable: an image that cannot be read, such as a damaged file, is named in the log and left out; in
            training the next one stands for it. Else it ends the run, after a checkpoint. Twenty in a row always do.
    """

    train_dataset: Recipe[Dataset]
    test_dataset: Recipe[Dataset]
    train_augmentations: tuple[Recipe[Augmentation], ...] = ()
    test_augmentations: tuple[Recipe[Augmentation], ...] = ()
    test_tiles: Tiling | None = None
    test_views: Views | None = None
    sampler: Recipe[Sampler] = Recipe(data.ShuffleSampler)
    batch_size: Count = 16
    test_batch_size: Count = 1
    num_workers: CountOrZero = 4
    mask_format: data.MaskFormat = "polygon"
    mini_mask_size: Count = 56
    keep_crowd: bool = False
    skip_unreadable: bool = False

    @functools.cached_property
    def train_set(self) -> Dataset:
        """The training dataset, read once."""
        return self._built("data.train_dataset", self.train_dataset)

    @functools.cached_property
    def test_set(self) -> Dataset:
        """The test dataset, read once."""
        return self._built("data.test_dataset", self.test_dataset)

    @property
    def reading(self) -> ImageReading:
        """How the test images are read, and so those that are predicted; of several datasets, as the first's."""
        return ImageReading(**next(parts_of(self.test_dataset, ImageReading, ""), ("", ImageReading, {}))[2])

    def check_classes(self, class_names: Sequence[str]) -> None:
        """Raises DataError unless these are the test dataset's classes: metrics would mean nothing."""
        if tuple(class_names) != tuple(self.test_set.class_names):
            raise DataError(
                f"data.test_dataset: its classes ({_few(self.test_set.class_names)}) differ from those that the model "
                f"learned ({_few(class_names)}); names and order count. Set the dataset's 'class_names' to the model's"
            )

    @property
    def semantic_names(self) -> tuple[str, ...]:
        """The classes of the training data's semantic maps. Raises ConfigError where there are no such maps."""
        if not self.train_set.semantic_names:
            raise ConfigError(
                f"data.train_dataset: {type(self.train_set).__name__} has no semantic maps, which the model learns "
                "from; take data that have them, such as CocoPanoptic"
            )
        return self.train_set.semantic_names

    def check_semantic_names(self, names: Sequence[str] | None, trained: bool = True) -> None:
        """Raises DataError where the data have semantic maps of other classes than ``names``, of a model that has some.

        Args:
            names: the model's; None: those of the training data.
            trained: whether the model learns from the training data, too.
        """
        named = {"train": self.semantic_names} if trained else {}
        wanted = tuple(names or named.get("train", ()))
        for part, found in {**named, "test": self.test_set.semantic_names}.items():
            if found and wanted and found != wanted:
                raise DataError(
                    f"data.{part}_dataset: the classes of its semantic maps ({_few(found)}) differ from the model's "
                    f"({_few(wanted)}); names and order count. Take data with the same classes; to learn those of the "
                    "training data: model.semantic_names=null"
                )

    def train(
        self, seed: int = 0, start_iter: int = 0, earlier: Sequence[tuple[int, int]] = ()
    ) -> Iterable[list[Sample]]:
        """An endless stream of training batches, from the one numbered ``start_iter`` on; ``earlier``: see
        ``train_loader``.

        Raises ConfigError where the batch size does not divide by the number of processes."""
        if self.batch_size % world_size():
            raise ConfigError(
                f"data.batch_size: {self.batch_size} images do not divide over {world_size()} processes; "
                f"take a multiple of {world_size()}"
            )
        mapper = self.train_mapper(self.train_set, seed)
        per_process = self.batch_size // world_size()
        sampler = built("data.sampler", self.sampler, self.train_set, per_process, seed, rank(), world_size())
        return train_loader(
            self.train_set,
            mapper,
            sampler,
            self.num_workers,
            start_iter,
            earlier,
            skip_unreadable=self.skip_unreadable,
            defer_errors=world_size() > 1,
        )

    def identity(self, seed: int) -> str:
        """Differs where the training images, their objects or the order in which they are seen are others."""
        dataset = self.train_set
        objects = dataset.objects()
        content = "\n".join(str(dataset.image_id(i)) for i in range(len(dataset))).encode("utf-8", "surrogatepass")
        for array in (objects.images, objects.classes, objects.boxes):
            content += np.ascontiguousarray(array).tobytes()
        options = "".join(f" {name}={value}" for name, value in self.sampler.kwargs.items())
        return f"{zlib.crc32(content):08x} {self.sampler.cls.__name__}{options} {seed}"

    @property
    def takes_whole(self) -> bool:
        """Whether test images are predicted as they are in their files, in tiles or several views."""
        return self.test_tiles is not None or self.test_views is not None

    def as_tested(self, model: nn.Module) -> nn.Module:
        """The model as it predicts test images: with ``test_tiles`` and ``test_views``, if any."""
        if not self.takes_whole:
            return model
        steps = [built("data.test_augmentations", recipe) for recipe in self.test_augmentations]
        return as_tested(model, self.test_views, self.test_tiles, steps, self.test_batch_size)

    def test(self, *, whole: bool = False) -> Iterable[list[Sample]]:
        """The test images once, in order; each process gets its share.

        Args:
            whole: as what ``as_tested`` gives takes them: without ``test_augmentations`` where it does these.
        """
        steps = () if whole and self.takes_whole else self.test_augmentations
        mapper = self._mapper(self.test_set, steps, seed=0, train=False)
        return test_loader(
            self.test_set,
            mapper,
            self.test_batch_size,
            self.num_workers,
            rank(),
            world_size(),
            skip_unreadable=self.skip_unreadable,
        )

    def calibration(self, num: int) -> Iterator[Sample]:
        """``num`` training images, spread over all of them, as test images are taken."""
        mapper = self._mapper(self.train_set, self.test_augmentations, seed=0, train=False)
        number = len(self.train_set)
        return (mapper(0, i * number // min(num, number)) for i in range(min(num, number)))

    def train_mapper(self, dataset: Dataset, seed: int) -> Mapper:
        """Makes samples of a dataset as training does."""
        return self._mapper(dataset, self.train_augmentations, seed, train=True)

    def _built(self, where: str, recipe: Recipe[Dataset]) -> Dataset:
        try:
            if self.skip_unreadable:  # what cannot be read is left out later
                recipe = changed(recipe, TableDataset, "check_images", lambda _: 0)
            return built(where, recipe)
        except Issue as issue:
            if issue.kind not in UNREADABLE:
                raise
            raise DataError(f"{issue}. {SKIP_HINT}") from None

    def _mapper(self, dataset: Dataset, recipes: Sequence[Recipe[Augmentation]], seed: int, train: bool) -> Mapper:
        steps = [built("data augmentations", recipe) for recipe in recipes]
        return Mapper(
            dataset,
            steps,
            seed=seed,
            mask_format=self.mask_format,
            mini_mask_size=self.mini_mask_size,
            train=train,
            keep_crowd=self.keep_crowd and train,
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
