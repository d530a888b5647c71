"""The experiment: the root of every config, and how its parts are built."""

import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from detkit import data, evaluation, modeling, solver
from detkit.checkpoint import Checkpoint, examine_weights, load_all_weights
from detkit.config import (
    ConfigError,
    Recipe,
    assignment,
    built,
    changed,
    complete,
    is_detkits,
    load_config,
    parse,
    parts_of,
    written,
    yaml_json,
)
from detkit.data import images_per_class
from detkit.engine.interfaces import Hook, Parallelism, TrainingData
from detkit.evaluation.interfaces import Evaluator, check_result_names
from detkit.experiment.data import DataConfig
from detkit.experiment.solver import SolverConfig
from detkit.experiment.train import TrainConfig
from detkit.modeling.interfaces import Backbone, ClassLoss, KeypointHead, MetaArch
from detkit.modeling.meta_archs.features import check_shaped
from detkit.modeling.weights import local_file
from detkit.solver.interfaces import LRSchedule, Optimizer
from detkit.structures import KeypointSpec

PACKAGES = (data, evaluation, modeling, solver)
"""Importing a package registers its components; a config may name any of them."""


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
        ConfigError: the neck does not take the backbone's maps, as far as these are known without building; or the
            model has an option for crowds, and the data leave them out.
    """

    model: Recipe[MetaArch]
    data: DataConfig
    solver: SolverConfig
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluators: tuple[Recipe[Evaluator], ...] = ()
    tree: dict[str, Any] = dataclasses.field(init=False, default_factory=dict, repr=False)
    """The complete config, every default filled in; it loads again to the same experiment."""
    notes: str = dataclasses.field(init=False, default="", repr=False)
    """How the config came about, which a run says as it begins; see ``own_data``."""

    def __post_init__(self) -> None:
        self._check_neck()
        for path, cls, options in () if self.data.keep_crowd else parts_of(self.model, object, "model"):
            option = getattr(cls, "crowd_option", None)
            value = None if option is None else options.get(option)
            if value is not None and value is not False:
                without = assignment(f"{path}.{option}", False if value is True else None)
                raise ConfigError(
                    f"{path}.{option}: {yaml_json(value)} spares what lies on crowds, but the training data leave"
                    f" crowds out; set data.keep_crowd=true, or {without}"
                )

    def build_model(
        self,
        num_classes: int | None = None,
        *,
        class_names: Sequence[str] | None = None,
        keypoints: KeypointSpec | None = None,
        pretrained: bool = True,
    ) -> MetaArch:
        """Builds a new model on the CPU, for the classes of the training dataset unless others are given.

        Args:
            num_classes: for so many classes, whose names nobody knows.
            class_names: for these classes.
            keypoints: for these, where the model has a keypoint head; None: those of the training dataset where the
                classes are its, else the head's own. A config that says which has its way.
            pretrained: False leaves out the files of weights that a backbone's ``weights`` option names, because
                a checkpoint of the whole model will be loaded anyway.

        Raises:
            ConfigError: options that do not fit together, such as anchor sizes for another number of levels, or a layer
                without a shape.
        """
        if isinstance(class_names, str):  # else each letter would be a class
            raise ConfigError(f"class_names: expected a list of names, got the text '{class_names}'")
        category_ids = None
        if num_classes is None and class_names is None:
            class_names, category_ids = self.data.train_set.class_names, tuple(self.data.train_set.category_ids)
            keypoints = keypoints or self.data.train_set.keypoint_spec
        recipe = changed(self.model, KeypointHead, "keypoints", lambda given: given or keypoints)
        recipe = changed(recipe, MetaArch, "semantic_names", lambda given: given or self.data.semantic_names)
        if "semantic_names" in recipe.kwargs:
            self.tree["model"]["semantic_names"] = list(recipe.kwargs["semantic_names"])  # in checkpoints, too
        recipe = recipe if pretrained else changed(recipe, Backbone, "weights", lambda _: None)
        model = built("model", recipe, num_classes if class_names is None else len(class_names))
        check_shaped(model)
        if class_names is not None:
            model.class_names = tuple(class_names)
        if category_ids is not None:
            model.category_ids = category_ids
            class_losses = [part for part in model.modules() if isinstance(part, ClassLoss)]
            counts = torch.from_numpy(images_per_class(self.data.train_set)) if class_losses else torch.empty(0)
            for part in class_losses:
                part.set_image_counts(counts)
        return model

    def check_model(self) -> None:
        """Raises ConfigError where options of the model do not fit together, such as anchor sizes for another number of
        levels, before data are read. Parts of one's own may need the data's classes, or values: they are built later.
        """
        if self._is_detkits:
            recipe = changed(self.model, Backbone, "weights", lambda _: None)
            with torch.device("meta"):
                built("model", changed(recipe, MetaArch, "semantic_names", lambda given: given or ("a", "b")), 1)

    def build_shapes(
        self, num_classes: int | None = None, *, class_names: Sequence[str] | None, keypoints: KeypointSpec | None
    ) -> MetaArch:
        """A model whose weights have no values, on the meta device: it takes no memory. See ``build_model``.

        One with parts of one's own is on the CPU, with values: these may compute with values while they are built.
        """
        with torch.device("meta" if self._is_detkits else "cpu"):
            return self.build_model(num_classes, class_names=class_names, keypoints=keypoints, pretrained=False)

    @property
    def _is_detkits(self) -> bool:
        """Whether no part of the model is somebody's own."""
        return all(is_detkits(cls) for _, cls, _ in parts_of(self.model, object, "model"))

    def filled_model(
        self, checkpoint: Checkpoint, class_names: Sequence[str], keypoints: KeypointSpec | None = None
    ) -> MetaArch:
        """A new model with all weights of a checkpoint, on the CPU; see ``build_model``.

        Raises:
            DataError: the checkpoint does not fill the model. One of far more values takes no memory before: the config
                may have come with the file, from anybody.
        """
        known: Any = {"class_names": class_names, "keypoints": keypoints or checkpoint.keypoints}
        if self._is_detkits:
            shapes = self.build_shapes(**known)
            sizes = [sum(v.numel() for v in state.values()) for state in (shapes.state_dict(), checkpoint.model)]
            if sizes[0] > sizes[1]:
                examine_weights(shapes, checkpoint).check_filled()
        model = self.build_model(**known, pretrained=False)
        load_all_weights(model, checkpoint)
        return model

    def fetch_weights(self) -> None:
        """Fetches what a backbone's own ``weights`` name, so that what is missing is said before data are read. Raises
        ConfigError where it cannot be had."""
        for name, part in self.model.kwargs.items():
            if isinstance(part, Recipe) and issubclass(part.cls, Backbone):
                try:
                    if source := part.ask("weights_source"):
                        local_file(source)
                except ValueError as error:
                    raise ConfigError(f"model.{name}.{error}; or train without, for longer: weights: null") from error

    def build_evaluators(self) -> list[Evaluator]:
        """The evaluators over the test dataset. Raises ConfigError where two give results of the same name."""
        evaluators = [built("evaluators", recipe, self.data.test_set) for recipe in self.evaluators]
        check_result_names(evaluators)
        return evaluators

    def build_optimizer(self, model: torch.nn.Module) -> Optimizer:
        """The optimizer with its rate scaled to the images a step. Raises ConfigError for one that needs a closure."""
        optimizer = built("solver.optimizer", self.solver.optimizer, model, self.lr_scale)
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ConfigError(
                f"solver.optimizer: {type(optimizer).__name__}.step needs a closure that computes the losses again, and"
                " a training step computes them once; take an optimizer that needs none"
            )
        return optimizer

    def build_schedule(self) -> LRSchedule:
        """The learning-rate schedule. Raises ConfigError for one that gives no factor."""
        schedule = built("solver.schedule", self.solver.schedule)
        factor: Any = schedule(0, max_iter := self.max_iter())
        if not isinstance(factor, int | float) or not 0 <= factor < math.inf:
            raise ConfigError(
                f"solver.schedule: {type(schedule).__name__}: expected a factor of at least 0 for step 0 of {max_iter},"
                f" got {factor!r:.80}"
            )
        return schedule

    def build_hooks(self) -> list[Hook]:
        """The further hooks that the config asks for."""
        return [built("train.hooks", recipe) for recipe in self.train.hooks]

    def build_parallelism(self) -> Parallelism:
        """How several processes train the model together."""
        return built("train.parallel", self.train.parallel)

    def _check_neck(self) -> None:
        backbone, neck = (self.model.kwargs.get(name) for name in ("backbone", "neck"))
        if not isinstance(backbone, Recipe) or not isinstance(neck, Recipe):
            return
        part = "backbone"
        try:
            strides = backbone.ask("strides")
            part = "neck"
            if strides is not None:
                neck.ask("check_strides", strides)
        except ValueError as error:
            raise ConfigError(f"model.{part}.{error}") from error

    @property
    def names_weights(self) -> bool:
        """Whether the config names weights to start from: the run's, or a part's own ``weights``."""
        return self.train.init_weights is not None or _names_weights(self.tree["model"])

    @property
    def images_per_step(self) -> int:
        """Training images between two changes of the weights, over all processes."""
        return self.data.batch_size * self.solver.accumulate

    @property
    def lr_scale(self) -> float:
        """What the optimizer's ``lr`` is multiplied by, as it is given for another number of images a step."""
        given_for = self.solver.lr_batch_size
        return 1.0 if given_for is None else self.images_per_step / given_for

    def training_data(self) -> TrainingData:
        """What the training's batches are made of. Reads the training dataset."""
        return TrainingData(
            self.data.batch_size, len(self.data.train_set), self.data.identity(self.train.seed), self.solver.epochs
        )

    def max_iter(self) -> int:
        """Training steps; for ``epochs`` this reads the training dataset."""
        if self.solver.max_iter is not None:
            return self.solver.max_iter
        return math.ceil((self.solver.epochs or 0) * len(self.data.train_set) / self.images_per_step)


def _names_weights(node: Mapping[str, Any]) -> bool:
    return any(
        _names_weights(value)
        if isinstance(value, Mapping)
        else key == "weights" and (value is True or isinstance(value, str))
        for key, value in node.items()
    )


def load_experiment(
    path: str | Path | Mapping[str, Any], overrides: str | Sequence[str] = (), *, trust_imports: bool | None = None
) -> Experiment:
    """Reads a config, lays the overrides over it and checks all of it. Builds nothing and reads no data.

    Args:
        path: a YAML file, the name of one of detkit's configs, the folder of a run, or a config as plain data (that of
            a checkpoint).
        overrides: ``key.path=value``, the values in YAML; one of them, or several.
        trust_imports: whether code that the config lists under ``imports`` may run. None: where the caller names or
            makes the config, but not where it comes out of a checkpoint.

    Raises:
        ConfigError: the first thing that is wrong, with its path, what was expected and the fix.
    """
    overrides = [overrides] if isinstance(overrides, str) else overrides
    if isinstance(path, str | Path) and Path(path).is_dir():
        overrides = [assignment("train.output_dir", path), *overrides]  # wherever the run has been moved
    imports: Any = None if trust_imports is None else "run" if trust_imports else "refuse"
    config = load_config(path, overrides, Experiment, imports)
    recipe = parse(config.tree, Experiment, sources=config.sources)
    experiment = recipe()
    listed = {"imports": config.imports} if config.imports else {}
    experiment.tree = {**listed, **written(complete(recipe), config.outside)}
    return experiment
