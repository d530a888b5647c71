#!/usr/bin/env python3
"""Certify that detkit computes what the framework computes that a checkpoint comes from.

Runs both on the same images and prints the largest difference at each stage: input, feature maps, proposals, class
scores, box deltas, boxes, masks, losses. "End to end", both start from the image; "on the reference's input", detkit's
stage gets what the reference's stage got, so the row says which stage is wrong, not which ones come after it. A row is
ok, DIFFERS, or inherits: right by itself, but fed by a stage that is not. Boxes are compared as sets; "tied" are those
where rounding decides which of several equal scores suppresses the others. For the losses both sides use every anchor
and proposal, and norms use their running statistics; images without annotations get made-up objects.

The exit code is 0 if everything is within its tolerance, 1 if not, 2 for a mistake in the arguments or files.

examples:
  a model of torchvision's; the file may be torchvision's own or a checkpoint of detkit
    python tools/compare_checkpoint.py --reference torchvision:maskrcnn_resnet50_fpn weights.pth image.jpg

  the two implementations, without a checkpoint: random weights, with norms' statistics taken from the first image and
  the last layers scaled so that scores differ on it (as initialised, all are nearly equal)
    python tools/compare_checkpoint.py --reference torchvision:fasterrcnn_resnet50_fpn_v2 random image.jpg --seed 1

  several images in batches, small, with the losses of real objects
    python tools/compare_checkpoint.py --reference torchvision:maskrcnn_resnet50_fpn weights.pth images/*.jpg \\
        --batch-size 2 --short-edge 256 --annotations instances.json

  a fixture, a JSON with an .npz beside it that holds what Detectron2 or pytorch-mask-rcnn computed on one image; the
  word fixture makes its weights again from their names
    python tools/compare_checkpoint.py --reference fixture.json fixture image.jpg --annotations instances.json
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from detkit.paths import local_path

PREFIX = "torchvision:"
SETTINGS = ("short_edge", "max_size", "score_thresh", "norm_eps")
"""The fields of ``comparison.Settings``."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", metavar="WEIGHTS", help="a file; or: random (torchvision), fixture (a fixture)")
    parser.add_argument("images", nargs="+", type=local_path, metavar="IMAGE", help="image files")
    parser.add_argument(
        "--reference",
        required=True,
        metavar="REF",
        help=f"a fixture's JSON, or {PREFIX}NAME, a detector of torchvision (an unknown one is answered with the list)",
    )
    parser.add_argument(
        "--config-file", type=local_path, metavar="FILE", help="detkit's model (default: the reference's in configs/)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="key.path=value", help="a change to the config; may be repeated"
    )
    parser.add_argument("--annotations", metavar="JSON", help="COCO instances of the images, for the losses")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="images that go through together")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of random weights and made-up objects")
    parser.add_argument("--json", type=local_path, metavar="FILE", help="the rows and the verdict, as JSON")
    both = parser.add_argument_group("settings of both sides, with torchvision (default: torchvision's)")
    both.add_argument("--short-edge", type=int, metavar="N", help="pixels that the shorter side is resized to")
    both.add_argument("--max-size", type=int, metavar="N", help="the longer side's limit in pixels")
    both.add_argument("--score-thresh", type=float, metavar="S", help="detections below are dropped")
    both.add_argument(
        "--norm-eps",
        type=float,
        metavar="E",
        help="of the backbone's norms (default: 0 for torchvision's file COCO_V1)",
    )
    parser.add_argument("--trust-imports", action="store_true", help="run the code that the config imports")
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        parser.error(f"--batch-size: expected at least 1, got {args.batch_size}")
    if not args.reference.startswith(PREFIX):
        given = [name for name in SETTINGS if getattr(args, name) is not None]
        if given:
            parser.error(f"--{given[0].replace('_', '-')}: a fixture has its own settings; it goes with {PREFIX}NAME")
        if len(args.images) > 1:
            parser.error("a fixture is of one image")
    return args


if __name__ == "__main__":
    parse_arguments(None)  # so --help and mistakes are answered at once: what is imported from here on takes seconds

import torch

from comparisons.fixtures import read_fixture
from comparisons.images import read_images
from comparisons.report import Report
from comparisons.torchvision_reference import (
    TORCHVISION_MODELS,
    Settings,
    build_torchvision,
    load_torchvision,
    num_classes_of,
    published_norm_eps,
)
from comparisons.weights import calibrate
from comparisons.with_fixture import compare_with_fixture
from comparisons.with_torchvision import compare_with_torchvision
from detkit import command_line
from detkit.checkpoint import Checkpoint, as_checkpoint, import_foreign, load_all_weights, read_checkpoint
from detkit.experiment import Experiment, load_experiment
from detkit.modeling.interfaces import MetaArch
from detkit.registry import ConfigError
from detkit.utils import atomic_write
from detkit.utils.progress import watched

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def build(exp: Experiment, checkpoint: Checkpoint, num_classes: int) -> MetaArch:
    """The config's model with these weights. Raises DataError where they are not all there."""
    names = checkpoint.class_names or import_foreign(checkpoint.model, {}).class_names
    unknown = tuple(f"class {index}" for index in range(num_classes))
    model = exp.build_model(class_names=names or unknown, pretrained=False)
    load_all_weights(model, checkpoint)
    model.class_names = names
    return model


def with_torchvision(args: argparse.Namespace) -> Report:
    """The parity report against one of torchvision's models."""
    name = args.reference.removeprefix(PREFIX)
    if name not in TORCHVISION_MODELS:
        raise ConfigError(f"--reference: there is no {PREFIX}{name}; there are {', '.join(TORCHVISION_MODELS)}")
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
    """Runs the tool; 0 where both sides are equal, 1 where not.

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


if __name__ == "__main__":
    sys.exit(command_line.run(main))
