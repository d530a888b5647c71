"""Converts weights: the work of ``detkit weights convert``."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detkit.checkpoint import Checkpoint, read_checkpoint
from detkit.checkpoint.conversion import convert, write_conversion
from detkit.checkpoint.formats import import_foreign
from detkit.checkpoint.formats.matterport import MatterportImporter
from detkit.commands.parsers.weights_convert import parse_arguments
from detkit.experiment import load_experiment
from detkit.registry import DataError


def model_of(args: argparse.Namespace, checkpoint: Checkpoint) -> tuple[dict[str, torch.Size], dict[str, Any]]:
    """Names and shapes of the config's model, and the whole config."""
    exp = load_experiment(args.config_file, args.overrides, trust_imports=args.trust_imports)
    number = args.num_classes or num_classes_in(checkpoint)
    model = exp.build_shapes(number, class_names=None, keypoints=checkpoint.keypoints)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}, dict(exp.tree)


def num_classes_in(checkpoint: Checkpoint) -> int:
    """How many classes the weights have; 1 where they have no class scores."""
    if checkpoint.class_names is not None:
        return len(checkpoint.class_names)
    model = import_foreign(checkpoint.model, {}).model
    if "head.bbox_pred.weight" in model:  # a one-stage detector: four deltas and a row a class for each anchor
        return max(4 * len(model["head.cls_score.weight"]) // len(model["head.bbox_pred.weight"]), 1)
    scores = model.get("roi_heads.box_head.cls_score.weight")
    return 1 if scores is None else max(len(scores) - 1, 1)


def with_class_names(checkpoint: Checkpoint, file: str) -> Checkpoint:
    """The checkpoint with the names in a text file. Raises DataError where there are too few or too many."""
    names = tuple(line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip())
    number = num_classes_in(dataclasses.replace(checkpoint, class_names=None))
    if len(names) != number:
        raise DataError(f"--class-names {file}: has {len(names)} names, and the weights have {number} classes")
    return dataclasses.replace(checkpoint, class_names=names, category_ids=None)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Raises ConfigError or DataError for a mistake in the config or in the weights."""
    args = parse_arguments(argv)
    if args.output.exists() and Path(args.input).exists() and args.output.samefile(args.input):
        raise DataError(f"{args.output}: would overwrite the weights that are read; give another file")
    checkpoint = read_checkpoint(args.input)
    if args.class_names is not None:
        checkpoint = with_class_names(checkpoint, args.class_names)
    wanted, config = (None, checkpoint.config) if args.config_file is None else model_of(args, checkpoint)
    importer = None if args.mode is None else MatterportImporter(mode=args.mode)
    conversion = convert(checkpoint, args.to, wanted=wanted, importer=importer)
    write_conversion(conversion, args.output, config=config)
    print("\n".join(map(str, conversion.lines)) if args.list else conversion)
    print(f"wrote {args.output}")
    return 0
