"""Evaluate weights on the test data; metrics, detections and pictures go to the run's folder.

examples:
  what a training has left; evaluation.json gets the metrics, coco_results.json the detections in COCO's form
    detkit evaluate output/quick_start

  other weights, also another framework's, by one of detkit's configs
    detkit evaluate coco/mask_rcnn_R_50_FPN_1x --weights model_final_a54504.pkl

  a checkpoint of a run, into another folder
    detkit evaluate output/quick_start --weights output/quick_start/model_best.pth train.output_dir=output/best

  on other data, the validation part of a folder or all of it; the files go to output/quick_start/on_my_folder
    detkit evaluate output/quick_start --data my_folder

  detections of another framework, or made before, with a report on them
    detkit evaluate output/quick_start --results theirs.json --report theirs.html train.output_dir=output/theirs

  large images tile by tile
    detkit evaluate output/quick_start --tile 512

  from each image and its mirror image
    detkit evaluate output/quick_start --tta flip

  a program that detkit export has written
    detkit evaluate output/quick_start --weights model.onnx train.output_dir=output/onnx

  with another threshold, by two processes
    detkit evaluate output/quick_start model.roi_heads.box_head.detection.nms_thresh=0.4 --num-processes 2
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import (
    add_config,
    add_data,
    add_engine,
    add_processes,
    add_views,
    check_processes,
    command_parser,
    parse_with_config,
    view_changes,
)
from detkit.paths import local_path, output_file, path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, as ``detkit train --eval-only`` has it."""
    parser = command_parser("evaluate", __doc__)
    add_config(parser)
    add_data(parser, "what it is evaluated on, in the place of the test data", divided=False)
    parser.add_argument(
        "--weights",
        type=path_or_address,
        metavar="FILE",
        help="a checkpoint, or a program of the model, such as model.onnx (default: the run's model_final.pth)",
    )
    add_engine(parser)
    parser.add_argument(
        "--results",
        type=local_path,
        metavar="FILE",
        help="evaluate these detections or panoptic maps (COCO's form), not weights",
    )
    parser.add_argument(
        "--report", type=output_file, metavar="FILE", help="where the report goes (default: the run's report.html)"
    )
    add_views(parser)
    parser.add_argument("--trust-imports", action="store_true", help="run the code that the config imports")
    add_processes(parser)
    args = parse_with_config(parser, argv)
    if args.config_file is None:
        parser.error("give the run, or a CONFIG, that is evaluated on --data")
    check_processes(parser, args)
    args.overrides += view_changes(parser, args)
    of_model = ("weights", "engine", "precision", "compile", "tile", "tta", "num_processes")
    given = [f"--{name.replace('_', '-')}" for name in of_model if getattr(args, name)]
    if args.results and given:
        parser.error(f"--results needs no model: leave out {', '.join(given)}")
    if args.results is not None and not args.results.exists():
        parser.error(f"--results {args.results}: there is no such file or folder")
    args.eval_only, args.resume = True, False
    return args
