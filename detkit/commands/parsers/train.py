"""Train a detector that a config describes, evaluate it, and leave weights, metrics and pictures in the run's folder.

examples:
  train a small Mask R-CNN on drawn shapes, in minutes, on any machine
    detkit train quick_start/mask_rcnn_shapes

  change anything by its path; values are YAML, null removes an optional part
    detkit train quick_start/mask_rcnn_shapes \\
        model.neck.name=PAFPN model.roi_heads.mask_head=null train.output_dir=output/faster_pafpn

  go on with a run that was interrupted
    detkit train output/quick_start/config.yaml --resume

  evaluate weights; evaluation.json gets the metrics, coco_results.json the detections in COCO's form
    detkit train output/quick_start/config.yaml --eval-only

  train in four processes, on a GPU each where there are four; torchrun does the same, on several machines too
    detkit train quick_start/mask_rcnn_shapes --num-processes 4

Options and their meaning: detkit show CONFIG --options model.roi_heads
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import add_config, command_parser, parse_with_config
from detkit.paths import path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("train", __doc__)
    add_config(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in train.output_dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate instead of training")
    parser.add_argument(
        "--weights", type=path_or_address, metavar="FILE", help="with --eval-only (default: the run's model_final.pth)"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="with --eval-only: by a faster copy")
    parser.add_argument("--compile", action="store_true", help="with --eval-only: through torch.compile, too")
    parser.add_argument("--num-processes", type=int, metavar="N", help="start N processes, as torchrun would")
    parser.add_argument("--max-restarts", type=int, metavar="N", help="with it: how often dead ones are replaced")
    args = parse_with_config(parser, argv)
    if args.weights and not args.eval_only:
        parser.error("--weights goes with --eval-only; a training starts from train.init_weights=FILE")
    if (args.precision or args.compile) and not args.eval_only:
        parser.error("--precision and --compile go with --eval-only; trainings have train.precision, train.compile")
    if args.resume and args.eval_only:
        parser.error("--resume trains on and --eval-only does not train: give one of them")
    if args.max_restarts is not None and args.num_processes is None:
        parser.error("--max-restarts goes with --num-processes; torchrun has an option of that name, too")
    for name, least in (("num_processes", 1), ("max_restarts", 0)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')}: expected at least {least}")
    return args
