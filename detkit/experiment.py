"""The experiment: the root of every config, and how its parts are built."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from detkit import data, evaluation, modeling, solver
from detkit.building import built, without_weights
from detkit.config import ConfigError, Recipe, complete, load_config, parse, parts_of
from detkit.data import Mapper, test_loader, train_loader
from detkit.data.interfaces import Augmentation, Dataset, Sampler
from detkit.engine.interfaces import Hook
from detkit.evaluation.interfaces import Evaluator
from detkit.modeling.interfaces import MetaArch
from detkit.modeling.matcher import Matcher
from detkit.registry import DataError
from detkit.solver.interfaces import LRSchedule, Optimizer
from detkit.structures import Sample
from detkit.utils.distributed import rank, world_size

__all__ = ["DataConfig", "Experiment", "SolverConfig", "TrainConfig", "load_experiment"]

ROOMS = (data, evaluation, modeling, solver)
"""Importing a room registers its components; a config may name any of them."""


@dataclasses.dataclass(kw_only=True)
class DataConfig:
    """Where images come from and what happens to them on the way to the model.

    Args:
        train_dataset: what is learned from; its class names are the model's.
        test_dataset: what is evaluated.
        train_augmentations: applied to training images, in order.
        test_augmentations: applied to test images, in order.
        sampler: the order of the training images.
        batch_size: training images a forward pass, over all processes; ``solver.accumulate`` of them are a step.
        test_batch_size: test images a forward pass, on each process.
        num_workers: loader processes beside each training process; 0 loads in the process itself.
        mask_format: how masks travel: as polygons where the data has them, or as bitmaps; mini: as small bitmaps
            that fill their boxes, which take little memory and lose what is finer than a cell.
        mini_mask_size: side of the bitmaps of mask_format mini, in cells.
        keep_crowd: crowd regions stay in the training targets, flagged, for models that spare what lies on them; else
            they are left out.
    """

    train_dataset: Recipe[Dataset]
    test_dataset: Recipe[Dataset]
    train_augmentations: tuple[Recipe[Augmentation], ...] = ()
    test_augmentations: tuple[Recipe[Augmentation], ...] = ()
    sampler: Recipe[Sampler] = Recipe(data.ShuffleSampler)
    batch_size: int = 16
    test_batch_size: int = 1
    num_workers: int = 4
    mask_format: data.MaskFormat = "polygon"
    mini_mask_size: int = 56
    keep_crowd: bool = False

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("test_batch_size", 1), ("num_workers", 0), ("mini_mask_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name}: expected at least {least}, got {getattr(self, name)}")

    @functools.cached_property
    def train_set(self) -> Dataset:
        """The training dataset, read once."""
        return built("data.train_dataset", self.train_dataset)

    @functools.cached_property
    def test_set(self) -> Dataset:
        """The test dataset, read once."""
        return built("data.test_dataset", self.test_dataset)

    def check_classes(self, class_names: Sequence[str]) -> None:
        """Raises DataError unless these are the test dataset's classes: a figure would mean nothing."""
        if tuple(class_names) != tuple(self.test_set.class_names):
            raise DataError(
                f"data.test_dataset: its classes ({_few(self.test_set.class_names)}) differ from those that the model "
                f"learned ({_few(class_names)}); names and order count. Set the dataset's 'class_names' to the model's"
            )

    def train(self, seed: int = 0, start_iter: int = 0) -> Iterable[list[Sample]]:
        """An endless stream of training batches, from the one numbered ``start_iter`` on.

        Raises ConfigError where the batch size does not divide by the number of processes."""
        if self.batch_size % world_size():
            raise ConfigError(
                f"data.batch_size: {self.batch_size} images do not divide over {world_size()} processes; "
                f"take a multiple of {world_size()}"
            )
        mapper = self._mapper(self.train_set, self.train_augmentations, seed, train=True)
        per_process = self.batch_size // world_size()
        sampler = built("data.sampler", self.sampler, self.train_set, per_process, seed, rank(), world_size())
        return train_loader(self.train_set, mapper, sampler, self.num_workers, start_batch=start_iter)

    def test(self) -> Iterable[list[Sample]]:
        """The test images once, in order; each process gets its share."""
        mapper = self._mapper(self.test_set, self.test_augmentations, seed=0, train=False)
        return test_loader(self.test_set, mapper, self.test_batch_size, self.num_workers, rank(), world_size())

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


@dataclasses.dataclass(kw_only=True)
class SolverConfig:
    """How weights change, and for how long.

    Args:
        optimizer: from gradients to weights.
        schedule: the learning rate over the run.
        max_iter: training steps; or give ``epochs``.
        epochs: passes over the training dataset; or give ``max_iter``.
        lr_batch_size: the batch size that the optimizer's ``lr`` is given for; with other ``data.batch_size`` times
            ``accumulate`` the rate is scaled in proportion. null: the rate is taken as it stands.
        clip_grad_norm: gradients are scaled down to this global norm; null for no limit.
        accumulate: batches a step; their gradients are averaged. The step is that of one batch so many times as
            large, in the memory of one; only batch norms (not frozen ones) still look at each batch alone.
    """

    optimizer: Recipe[Optimizer]
    schedule: Recipe[LRSchedule]
    max_iter: int | None = None
    epochs: float | None = None
    lr_batch_size: int | None = 16
    clip_grad_norm: float | None = None
    accumulate: int = 1

    def __post_init__(self) -> None:
        if (self.max_iter is None) == (self.epochs is None):
            raise ValueError(
                f"solver: give either max_iter or epochs, got max_iter {self.max_iter} and epochs {self.epochs} "
                "(null removes the one that a base config gives)"
            )
        for name in ("max_iter", "epochs", "lr_batch_size", "clip_grad_norm", "accumulate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"solver.{name}: expected more than 0, got {value}")


@dataclasses.dataclass(kw_only=True)
class TrainConfig:
    """The run: where it writes, what it starts from, how often it reports.

    Args:
        output_dir: the run's folder.
        seed: of everything random.
        device: ``auto`` (a CUDA GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        init_weights: a checkpoint to start from; only what fits is loaded, and the report says what did not.
        log_period: steps between lines of metrics.
        eval_period: steps between evaluations; null for one at the end.
        checkpoint_period: steps between checkpoints; null for none but the final weights.
        checkpoint_keep: how many checkpoints are kept.
        num_pictures: test images whose predictions are drawn at the end.
        hooks: further hooks, in order.
    """

    output_dir: str = "output/run"
    seed: int = 0
    device: str = "auto"
    init_weights: str | None = None
    log_period: int = 20
    eval_period: int | None = None
    checkpoint_period: int | None = 5000
    checkpoint_keep: int = 3
    num_pictures: int = 8
    hooks: tuple[Recipe[Hook], ...] = ()

    def __post_init__(self) -> None:
        for name in ("log_period", "eval_period", "checkpoint_period", "checkpoint_keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"train.{name}: expected at least 1, got {value}")
        if self.seed < 0 or self.num_pictures < 0:
            raise ValueError(f"train: expected no negative seed or num_pictures, got {self.seed}, {self.num_pictures}")


@dataclasses.dataclass(kw_only=True)
class Experiment:
    """Everything that a config says.

    Args:
        model: the detector.
        data: where images come from.
        solver: how weights change.
        train: the run itself.
        evaluators: what is measured on the test dataset.

    Raises:
        ConfigError: the model wants to know of crowds, and the data leave them out.
    """

    model: Recipe[MetaArch]
    data: DataConfig
    solver: SolverConfig
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluators: tuple[Recipe[Evaluator], ...] = ()
    tree: dict[str, Any] = dataclasses.field(init=False, default_factory=dict, repr=False)
    """The complete config, every default filled in; it loads again to the same experiment."""

    def __post_init__(self) -> None:
        for path, options in () if self.data.keep_crowd else parts_of(self.model, Matcher, "model"):
            if options.get("crowd_thresh") is not None:
                raise ConfigError(
                    f"{path}.crowd_thresh: {options['crowd_thresh']} spares what lies on crowds, but the training data "
                    f"leave crowds out; set data.keep_crowd=true, or {path}.crowd_thresh=null"
                )

    def build_model(self, num_classes: int | None = None) -> MetaArch:
        """A new model on the CPU.

        Args:
            num_classes: None takes the number, and the names, from the training dataset.

        Raises:
            ConfigError: parts that do not fit together, such as anchor sizes for another number of levels.
        """
        if num_classes is None:
            return self.build_model_for(self.data.train_set.class_names)
        return built("model", self.model, num_classes)

    def build_model_for(self, class_names: Sequence[str], pretrained: bool = True) -> MetaArch:
        """A new model for these classes.

        Args:
            class_names: the K names.
            pretrained: False leaves out the files of weights that a backbone's ``weights`` option names, because
                a checkpoint of the whole model will be loaded anyway.
        """
        recipe = self.model if pretrained else without_weights(self.model)
        model = dataclasses.replace(self, model=recipe).build_model(len(class_names))
        model.class_names = tuple(class_names)
        return model

    def build_evaluators(self) -> list[Evaluator]:
        """The evaluators over the test dataset."""
        return [built("evaluators", recipe, self.data.test_set) for recipe in self.evaluators]

    def build_optimizer(self, model: torch.nn.Module) -> Optimizer:
        """The optimizer with its rate scaled to the images a step."""
        given_for = self.solver.lr_batch_size
        scale = 1.0 if given_for is None else self.images_per_step / given_for
        return built("solver.optimizer", self.solver.optimizer, model, scale)

    def build_schedule(self) -> LRSchedule:
        """The learning-rate schedule."""
        return built("solver.schedule", self.solver.schedule)

    def build_hooks(self) -> list[Hook]:
        """The further hooks that the config asks for."""
        return [built("train.hooks", recipe) for recipe in self.train.hooks]

    @property
    def images_per_step(self) -> int:
        """Training images between two changes of the weights, over all processes."""
        return self.data.batch_size * self.solver.accumulate

    def max_iter(self) -> int:
        """Training steps; for ``epochs`` this reads the training dataset."""
        if self.solver.max_iter is not None:
            return self.solver.max_iter
        return math.ceil((self.solver.epochs or 0) * len(self.data.train_set) / self.images_per_step)


def load_experiment(path: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Experiment:
    """Reads a config, lays the overrides over it and checks all of it. Builds nothing and reads no data.

    Args:
        path: a YAML file, or its content as plain data (a checkpoint's config).
        overrides: ``key.path=value``, the values in YAML.

    Raises:
        ConfigError: the first thing that is wrong, with its path, what was expected and the way out.
    """
    config = load_config(path, overrides)
    recipe = parse(config.tree, Experiment, sources=config.sources)
    experiment = recipe()
    experiment.tree = {**({"imports": config.imports} if config.imports else {}), **complete(recipe)}
    return experiment


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
