#!/usr/bin/env python3
"""Convert weights between frameworks, and say what became of every tensor.

Reads checkpoints of detkit, Detectron2 (.pkl, .pth), Caffe2, torchvision, pytorch-mask-rcnn (.pth) and matterport's
Mask R-CNN (.h5). Writes one of detkit, Detectron2 or torchvision. Nothing of a file that is read is ever run. To train
from foreign weights or to predict with them, no conversion is needed: load_weights and train.init_weights read them.

examples:
  Detectron2's weights as a checkpoint of detkit that knows its config
    python tools/convert_checkpoint.py model_final_a54504.pkl mask_rcnn.pth \\
        --config-file configs/coco/mask_rcnn_R_50_FPN_1x.yaml

  a model of detkit for torchvision; every tensor is listed
    python tools/convert_checkpoint.py output/run/model_final.pth torchvision.pth --to torchvision --list

  the same for Detectron2: DetectionCheckpointer reads it, as .pth or as .pkl
    python tools/convert_checkpoint.py output/run/model_final.pth detectron2.pth --to detectron2

  matterport's weights for its own layers, or folded into ordinary ones; with a config, the config decides
    python tools/convert_checkpoint.py mask_rcnn_coco.h5 seed.pth --mode native
    python tools/convert_checkpoint.py mask_rcnn_coco.h5 ordinary.pth --mode folded
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detkit.paths import local_path, path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=path_or_address, metavar="INPUT", help="weights of any of these frameworks")
    parser.add_argument("output", type=local_path, metavar="OUTPUT", help="the file to write")
    parser.add_argument("--config-file", type=local_path, metavar="FILE", help="the model that the weights are for")
    parser.add_argument("--to", choices=("detkit", "detectron2", "torchvision"), default="detkit", help="whose layout")
    parser.add_argument(
        "--mode", choices=("native", "folded"), help="how matterport's layers are read, without a config"
    )
    parser.add_argument("--num-classes", type=int, metavar="N", help="of the config's model (default: the file's)")
    parser.add_argument(
        "--class-names", type=local_path, metavar="FILE", help="a text file with a class name a line, if INPUT has none"
    )
    parser.add_argument("--list", action="store_true", help="a line for every tensor, not a summary")
    parser.add_argument("--trust-imports", action="store_true", help="run the code that the config imports")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="changes to the config")
    args = parser.parse_intermixed_args(argv)
    if args.config_file is None and (args.num_classes is not None or args.overrides):
        parser.error("--num-classes and overrides go with --config-file")
    if args.config_file is not None and args.mode is not None:
        parser.error("--mode goes without --config-file: the config's layers decide")
    if args.num_classes is not None and args.num_classes < 1:
        parser.error("--num-classes: expected at least 1")
    return args


if __name__ == "__main__":
    parse_arguments(None)  # so --help and mistakes are answered at once: what is imported from here on takes seconds

import torch

from detkit import command_line
from detkit.checkpoint import Checkpoint, read_checkpoint
from detkit.checkpoint.conversion import convert, write_conversion
from detkit.checkpoint.formats import import_foreign
from detkit.checkpoint.formats.matterport import MatterportImporter
from detkit.experiment import load_experiment
from detkit.registry import DataError


def model_of(args: argparse.Namespace, checkpoint: Checkpoint) -> tuple[dict[str, torch.Size], dict[str, Any]]:
    """Names and shapes of the config's model, and the whole config."""
    exp = load_experiment(args.config_file, args.overrides, trust_imports=args.trust_imports)
    with torch.device("meta"):
        model = exp.build_model(args.num_classes or num_classes_in(checkpoint))
    return {name: tensor.shape for name, tensor in model.state_dict().items()}, dict(exp.tree)


def num_classes_in(checkpoint: Checkpoint) -> int:
    """How many classes the weights have; 1 where they have no class scores."""
    if checkpoint.class_names is not None:
        return len(checkpoint.class_names)
    scores = import_foreign(checkpoint.model, {}).model.get("roi_heads.box_head.cls_score.weight")
    return 1 if scores is None else max(len(scores) - 1, 1)


def with_class_names(checkpoint: Checkpoint, file: str) -> Checkpoint:
    """The checkpoint with the names in a text file. Raises DataError where there are too few or too many."""
    names = tuple(line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip())
    number = num_classes_in(dataclasses.replace(checkpoint, class_names=None))
    if len(names) != number:
        raise DataError(f"--class-names {file}: has {len(names)} names, and the weights have {number} classes")
    return dataclasses.replace(checkpoint, class_names=names, category_ids=None)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool. Raises ConfigError or DataError for a mistake in the config or in the weights."""
    args = parse_arguments(argv)
    if args.output.exists() and Path(args.input).exists() and args.output.samefile(args.input):
        raise DataError(f"{args.output}: would overwrite the weights that are read; give another file")
    checkpoint = read_checkpoint(args.input)
    if args.class_names is not None:
        checkpoint = with_class_names(checkpoint, args.class_names)
    wanted, config = (None, checkpoint.config) if args.config_file is None else model_of(args, checkpoint)
    importer = None if args.mode is None else MatterportImporter(args.mode)
    conversion = convert(checkpoint, args.to, wanted=wanted, importer=importer)
    write_conversion(conversion, args.output, config=config)
    print("\n".join(map(str, conversion.lines)) if args.list else conversion)
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
