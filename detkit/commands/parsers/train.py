"""Train a detector that a config describes, evaluate it, and leave weights, metrics and pictures in the run's folder.

examples:
  train a small Mask R-CNN on drawn shapes, in minutes, on any machine
    detkit train quick_start/mask_rcnn_shapes

  train on a folder of your own, as a labelling tool wrote it; what follows from the data is said, and may be changed
    detkit train --data my_folder
    detkit train own_data/mask_rcnn_large --data my_folder solver.max_iter=3000

  change anything by its path; values are YAML, null removes an optional part
    detkit train quick_start/mask_rcnn_shapes \\
        model.neck.name=PAFPN model.roi_heads.mask_head=null train.output_dir=output/faster_pafpn

  go on with a run that was interrupted
    detkit train output/quick_start --resume

  from weights, of any framework that is read here
    detkit train coco/mask_rcnn_R_50_FPN_1x --weights R-50.pkl

  train in four processes, on a GPU each where there are four; torchrun does the same, on several machines too
    detkit train quick_start/mask_rcnn_shapes --num-processes 4

Options and their meaning: detkit show CONFIG --options model.roi_heads
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import (
    add_config,
    add_data,
    add_engine,
    add_processes,
    check_processes,
    command_parser,
    parse_with_config,
)
from detkit.paths import path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("train", __doc__)
    add_config(parser)
    add_data(parser, "what it learns from; without CONFIG, a small Mask R-CNN or Faster R-CNN does")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in train.output_dir")
    parser.add_argument("--eval-only", action="store_true", help="the same as detkit evaluate")
    parser.add_argument(
        "--weights",
        type=path_or_address,
        metavar="FILE",
        help="what it starts from, as train.init_weights, or none; with --eval-only, what is evaluated",
    )
    add_engine(parser.add_argument_group("with --eval-only"))
    add_processes(parser)
    args = parse_with_config(parser, argv)
    if args.config_file is None and args.eval_only:
        parser.error("--eval-only: give the run, or a CONFIG, that is evaluated")
    if args.eval_only and (args.classes is not None or args.val_fraction is not None):
        parser.error(
            "--classes and --val-fraction are of a training: --eval-only takes the model's classes, and of --data its"
            " validation part, or all of it"
        )
    if args.data is not None and args.resume:
        parser.error(
            "--data begins a training, and a run knows its data: detkit train output/own_data --resume goes on with the"
            " one there; give its folder, if you have named another (train.output_dir)"
        )
    if (args.engine or args.precision or args.compile) and not args.eval_only:
        parser.error(
            "--engine, --precision and --compile go with --eval-only; trainings have train.precision, train.compile"
        )
    if args.resume and args.eval_only:
        parser.error("--resume trains on and --eval-only does not train: give one of them")
    check_processes(parser, args)
    args.results = args.report = None  # those of an evaluation
    args.trust_imports = None  # a training runs its user's own code
    args.run = None  # its folder, once it is known
    return args
