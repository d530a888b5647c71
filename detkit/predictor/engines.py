"""Engines besides torch: programs of a model, made now or read from a file."""

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from detkit import __version__
from detkit.config import assignment
from detkit.experiment import Experiment, load_experiment
from detkit.export import FORMS, NO_VIEWS, Program, ProgramModel, export, read_config
from detkit.inference import Precision, optimized
from detkit.modeling.meta_archs.features import FeatureModel
from detkit.registry import ConfigError, DataError
from detkit.structures import KeypointSpec, Sample

logger = logging.getLogger(__name__)

_AUTO = "openvino"
"""What ``"auto"`` takes where it is faster than torch."""
_AFTER = ("model.mask_thresh", "model.mask_paster", "model.merge")
"""Options of a model that work on what a program gives."""


def in_engine(
    model: nn.Module,
    engine: str | None,
    precision: Precision | None = None,
    compile: bool = False,
    views: bool = False,
) -> nn.Module:
    """The model as an engine runs it.

    Args:
        model: a meta-architecture on its device, or a program, which stays as it is.
        engine: see ``Predictor``.
        precision: None: the model's own, float32.
        compile: see ``Predictor``.
        views: whether several views of an image will be merged, which programs cannot.

    Raises:
        ConfigError: there is no such engine, it is not installed, or what is asked for does not go together.
    """
    if engine not in (None, "auto"):
        FORMS.with_key(engine, "engine", "auto")
    if views and (isinstance(model, ProgramModel) or engine not in (None, "auto", "torch")):
        raise ConfigError(NO_VIEWS)
    if isinstance(model, ProgramModel):
        if engine not in (None, "auto", model.program.engine_name):
            raise ConfigError(
                f"engine: {engine}, but {model.program.path} is in {model.program.engine_name} already; "
                f"ProgramModel(model, Program(path, {engine!r})) loads it into another"
            )
        if precision is not None or compile:
            raise ConfigError("precision, compile: a program has its own precision; export it in another one")
        return model
    plain = model if precision is None and not compile else optimized(model, precision or "fp32", compile)
    if engine in (None, "torch"):
        return plain
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    if engine == "auto":
        return _faster(model, plain, precision) if on_cpu and not compile and not views else plain
    if not on_cpu or compile:
        raise ConfigError(f"engine: {engine} runs on the CPU, and without torch.compile; give device: cpu, or torch")
    return _program(model, engine, precision)


def _program(model: nn.Module, engine: str, precision: Precision | None) -> ProgramModel:
    start, form = time.perf_counter(), FORMS.with_key(engine, "engine")
    if precision not in (None, *form.precisions):
        able = " or ".join(key for key, other in FORMS.by_key().items() if precision in other.precisions)
        raise ConfigError(f"precision: {engine} has no {precision}; leave it out, or take {able}")
    said = "making a program for %s, half a minute or so; detkit export writes one that is read at once"
    logger.info(said, engine)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"model{form.suffix}")
        export(model, path, precision=precision or "fp32")
        made = ProgramModel(cast(FeatureModel, model), Program(path, engine))
    seconds = time.perf_counter() - start
    logger.info("made it in %.0f s", seconds)
    return made


def _faster(model: nn.Module, plain: nn.Module, precision: Precision | None) -> nn.Module:
    """OpenVINO's program or the model itself, whichever takes less time for an image of 640 x 480, or what of it the
    model's square takes."""
    try:
        made = _program(model, _AUTO, precision)
    except (ConfigError, DataError) as error:  # it cannot be written, or OpenVINO does not take it
        logger.info("engine auto: torch, as there is no program of this model (%s)", error)
        return plain
    height, width = (min(side, made.preprocess.square_size or side) for side in (480, 640))
    image = torch.full((made.preprocess.num_channels, height, width), 127, dtype=torch.uint8)
    samples, times = [Sample(image, (height, width))], []
    with torch.no_grad():
        for candidate in (plain, made):
            candidate(samples)
            start = time.perf_counter()
            candidate(samples)
            times.append(time.perf_counter() - start)
    chosen = "torch" if times[0] < times[1] else _AUTO
    size = f"{width} x {height}"
    logger.info("engine auto: %s (torch %.2f s, %s %.2f s an image of %s)", chosen, times[0], _AUTO, times[1], size)
    return plain if chosen == "torch" else made


def load_program(
    path: str | os.PathLike[str],
    overrides: Sequence[str],
    config: str | Path | None,
    engine: str | None,
    trust_imports: bool,
) -> tuple[ProgramModel, Experiment]:
    """A program as a model, and the experiment that it is of; see ``Predictor.from_weights``."""
    program = Program(path, None if engine == "auto" else engine)
    source = read_config(program) if config is None else config
    experiment = load_experiment(source, overrides, trust_imports=trust_imports)
    return program_model(experiment, program), experiment


def program_model(experiment: Experiment, program: Program) -> ProgramModel:
    """A program in the place of the experiment's model.

    Raises:
        ConfigError: it was made of another model than the experiment's.
    """
    said = program.description
    same_version = said.version == __version__
    other = list(_differing("model", said.config.get("model"), experiment.tree["model"], same_version))
    if said.config and other:
        wanted, made_of = (" ".join(assignment(row[0], row[i]) for row in other[:5]) for i in (2, 1))
        raise ConfigError(
            f"{program.path}: is a program, in which the model is fixed; export it with {wanted:.500}, or run it with "
            f"what it was made of, {made_of:.500}"
        )
    return ProgramModel(_model_around(experiment, program), program)


def _differing(path: str, made_of: Any, given: Any, same_version: bool) -> Iterator[tuple[str, Any, Any]]:
    """Where two configs of a model are not the same, and the value in each. Versions differ in what options there are,
    and an option that one of them has not is left out then."""
    if path in _AFTER or (path == "model.semantic_names" and given is None):  # which are then the data's
        return
    if not isinstance(made_of, Mapping) or not isinstance(given, Mapping) or made_of.get("name") != given.get("name"):
        if made_of != given:
            yield path, made_of, given
        return
    for key in {**made_of, **given}:
        if same_version or (key in made_of and key in given):
            yield from _differing(f"{path}.{key}", made_of.get(key), given.get(key), same_version)


def _model_around(experiment: Experiment, program: Program) -> FeatureModel:
    """The model of the experiment without weights: what a program needs around it."""
    said = program.description
    keypoints = None if said.keypoints is None else KeypointSpec.from_coco(said.keypoints)
    model = experiment.build_shapes(class_names=said.class_names, keypoints=keypoints)
    if not isinstance(model, FeatureModel):
        raise ConfigError(f"{program.path}: {type(model).__name__} is no detector of backbone, neck and heads")
    model.preprocess = experiment.model.kwargs["preprocess"]()  # with values, not on the meta device
    model.preprocess.adapt_to(model.backbone, model.neck)
    model.category_ids = None if said.category_ids is None else tuple(said.category_ids)
    return model.eval()
