"""Compares with the framework that weights come from: the work of ``detkit compare``."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from detkit.checkpoint import Checkpoint, as_checkpoint, import_foreign, read_checkpoint
from detkit.commands.parsers.compare import PREFIX, SETTINGS, parse_arguments
from detkit.comparisons.fixtures import read_fixture
from detkit.comparisons.images import read_images
from detkit.comparisons.report import Report
from detkit.comparisons.torchvision_reference import (
    TORCHVISION_MODELS,
    Settings,
    build_torchvision,
    load_torchvision,
    num_classes_of,
    published_norm_eps,
)
from detkit.comparisons.weights import calibrate
from detkit.comparisons.with_fixture import compare_with_fixture
from detkit.comparisons.with_torchvision import compare_with_torchvision
from detkit.config.named import CONFIGS
from detkit.experiment import Experiment, load_experiment
from detkit.modeling.interfaces import MetaArch
from detkit.registry import ConfigError
from detkit.utils import atomic_write
from detkit.utils.progress import watched


def build(exp: Experiment, checkpoint: Checkpoint, num_classes: int) -> MetaArch:
    """The config's model with these weights. Raises DataError where they are not all there."""
    names = checkpoint.class_names or import_foreign(checkpoint.model, {}).class_names
    unknown = tuple(f"class {index}" for index in range(num_classes))
    model = exp.filled_model(checkpoint, names or unknown)
    model.class_names = names
    return model


def with_torchvision(args: argparse.Namespace) -> Report:
    """The parity report against one of torchvision's models."""
    name = args.reference.removeprefix(PREFIX)
    if name not in TORCHVISION_MODELS:
        raise ConfigError(
            f"--reference: there is no {PREFIX}{name} here; torchvision's detectors of two stages with boxes and masks"
            f" are compared: {', '.join(TORCHVISION_MODELS)}"
        )
    settings = Settings(**{option: getattr(args, option) for option in SETTINGS})
    notes = []
    published = published_norm_eps(name, args.weights)
    if published is not None and settings.norm_eps is None:
        settings = dataclasses.replace(settings, norm_eps=published)
        notes.append(f"{Path(args.weights).name}: torchvision runs it with model.backbone.norm.eps={published:g}")
    if args.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(args.seed)
            reference = build_torchvision(name, 90, settings)
        first_image = torch.from_numpy(read_images(args.images[:1])[0].image).permute(2, 0, 1)
        calibrate(reference, first_image.float() / 255, args.seed)
        checkpoint = as_checkpoint(reference.state_dict(), f"random weights (seed {args.seed})")
        num_classes = 90
    else:
        checkpoint = read_checkpoint(args.weights)
        num_classes = num_classes_of(checkpoint)
        reference = build_torchvision(name, num_classes, settings)
        load_torchvision(reference, checkpoint)
    config = args.config_file or checkpoint.config or CONFIGS / "torchvision" / f"{TORCHVISION_MODELS[name]}.yaml"
    exp = load_experiment(config, [*settings.overrides(), *args.set], trust_imports=args.trust_imports)
    model = build(exp, checkpoint, num_classes)
    records = read_images(args.images, args.annotations, model.class_names)
    batches = [records[i : i + args.batch_size] for i in range(0, len(records), args.batch_size)]
    shown = watched(batches, "batches", unit="batch", show=len(batches) > 1)
    augmentations = [recipe() for recipe in exp.data.test_augmentations]
    return compare_with_torchvision(
        model, reference, shown, name=f"torchvision's {name}", augmentations=augmentations, seed=args.seed, notes=notes
    )


def with_fixture(args: argparse.Namespace) -> Report:
    """The parity report against a fixture."""
    fixture = read_fixture(args.reference)
    exp = load_experiment(
        args.config_file or CONFIGS / fixture.config_file,
        [*fixture.overrides(), *args.set],
        trust_imports=args.trust_imports,
    )
    if args.weights == "fixture":
        checkpoint = as_checkpoint(fixture.weights(), f"weights of {args.reference}")
    else:
        checkpoint = read_checkpoint(args.weights)
    model = build(exp, checkpoint, fixture.num_classes)
    record = read_images(args.images, args.annotations)[0]
    augmentations = [recipe() for recipe in exp.data.test_augmentations]
    return compare_with_fixture(model, fixture, record, augmentations=augmentations)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 where both sides are equal, 1 where not.

    Raises:
        ConfigError, DataError: a mistake in the config, the weights, the fixture or the images.
    """
    args = parse_arguments(argv)
    report = with_torchvision(args) if args.reference.startswith(PREFIX) else with_fixture(args)
    print(report)
    if args.json is not None:
        content = {"weights": args.weights, "images": [str(path) for path in args.images], **report.as_dict()}
        with atomic_write(args.json, "w") as file:
            json.dump(content, file, indent=1)
        print(f"JSON: {args.json}")
    return 0 if report.equal else 1
