"""Find instances in images, folders and videos; write pictures and COCO results.

examples:
  the photographs of a folder, by the model of a run; pictures go to predictions/
    detkit predict --run output/quick_start photos/ --output predictions

  some images, the results as JSON, everything that has a score of at least 0.05
    detkit predict --run output/quick_start a.jpg b.png --json results.json --score-thresh 0.05

  the images that a COCO file lists, with its ids, for evaluation or a labelling tool
    detkit predict --run output/quick_start val/ --json results.json --annotations val.json --score-thresh 0

  large images in overlapping tiles of 512 pixels: what is small in them is found, an object on a border once
    detkit predict --run output/quick_start aerial/ --output predictions --tile 512

  from views of 640 and 800 pixels, each mirrored, too: slower, and often better
    detkit predict --run output/quick_start photos/ --output predictions --tta 640,800

  a million images in four processes: results as JSON lines; after a kill the same command goes on
    detkit predict --run output/quick_start images/ --recursive --results found --num-processes 4

  a video: predictions/clip.mp4 shows the instances (with --frames: a picture for each frame)
    detkit predict --run output/quick_start clip.mp4 --output predictions

  a camera, until Ctrl-C: predictions/0.mp4 (also /dev/video0, rtsp://..., http://.../video?.mjpg)
    detkit predict --run output/quick_start 0 --output predictions

  labels to correct in a labelling tool, with their images, in a new folder
    detkit predict --run output/quick_start photos/ --output to_correct --label-format labelme --score-thresh 0.3

  a program that detkit export has written, which needs neither run nor config
    detkit predict --weights model.onnx photos/ --output predictions

  a config with weights, and changes to the config
    detkit predict --config-file coco/mask_rcnn_R_50_FPN_1x --weights model.pth photos/ \\
        --output predictions --set model.roi_heads.box_head.detection.nms_thresh=0.4
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import (
    LABEL_FORMATS,
    add_engine,
    add_views,
    command_parser,
    count,
    count_or_zero,
    score,
    view_changes,
)
from detkit.paths import local_path, output_file, output_folder, path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("predict", __doc__)
    what = "image, folder of images, video, pattern ('photos/**'), address, or camera or stream (0, rtsp://...)"
    parser.add_argument("inputs", nargs="+", type=path_or_address, metavar="INPUT", help=what)
    model = parser.add_argument_group("the model: a run, or a config with weights, or weights that carry a config")
    model.add_argument("--run", type=local_path, metavar="DIR", help="the folder of a training run")
    model.add_argument("--config-file", type=local_path, metavar="FILE", help="a YAML")
    model.add_argument(
        "--weights",
        type=path_or_address,
        metavar="FILE",
        help="a checkpoint, a name or a program, such as model.onnx (with --run: model_final.pth)",
    )
    model.add_argument(
        "--set", action="append", default=[], metavar="key.path=value", help="a change to the config; may be repeated"
    )
    model.add_argument("--trust-imports", action="store_true", help="run the code that the config imports")
    model.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1, ...")
    model.add_argument("--batch-size", type=count, metavar="N", help="images at a time (default: 4)")
    add_engine(model)
    add_views(model)
    _add_outputs(parser)
    args = parser.parse_args(argv)
    args.set += view_changes(parser, args)
    if args.output is None and args.json is None and args.results is None:
        parser.error("nothing to write: give --output DIR (pictures), --json FILE or --results DIR (COCO results)")
    if args.annotations is not None and args.json is None and args.results is None:
        parser.error("--annotations goes with --json FILE or --results DIR")
    _check_many(parser, args)
    if (args.frames or args.label_format) and args.output is None:
        parser.error(f"{'--frames' if args.frames else '--label-format'} goes with --output DIR")
    if args.frames and args.label_format:
        parser.error("--frames: labels have a picture for each frame anyway; leave it out")
    if (args.run and args.config_file) or not (args.run or args.config_file or args.weights):
        parser.error("give either --run DIR, or --config-file FILE with --weights FILE, or --weights FILE alone")
    if args.config_file is not None and args.weights is None:
        parser.error("--config-file needs --weights FILE")
    if args.batch_size is not None and args.tta is not None:
        parser.error("--batch-size: with --tta the views of one image go together; --set data.test_views.batch_size=N")
    args.batch_size = 4 if args.batch_size is None else args.batch_size
    return args


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    """What is written, and where."""
    parser.add_argument("--output", type=output_folder, metavar="DIR", help="where pictures and videos go")
    parser.add_argument(
        "--label-format",
        metavar="NAME",
        help="write labels to correct, with copies of their images, into --output (a new folder) instead of pictures: "
        f"{LABEL_FORMATS}",
    )
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="COCO results of all inputs; images are numbered from 1"
    )
    many = parser.add_argument_group("many images: written as they come, and an interrupted run goes on")
    many.add_argument("--results", type=output_folder, metavar="DIR", help="where COCO results go, as JSON lines")
    many.add_argument(
        "--format",
        choices=("jsonl", "json", "parquet"),
        help="and at the end as one file (default: jsonl, none)",
    )
    many.add_argument("--num-processes", type=count, metavar="N", help="start N processes, as torchrun would")
    many.add_argument(
        "--num-workers", type=count_or_zero, metavar="N", help="processes that read ahead for each (default: up to 4)"
    )
    parser.add_argument(
        "--annotations",
        type=local_path,
        metavar="FILE",
        help="a COCO file: results get its ids of images (by file name) and of categories (by class name)",
    )
    parser.add_argument(
        "--score-thresh", type=score, default=0.5, metavar="S", help="leave out what scores less (default: 0.5)"
    )
    parser.add_argument("--frames", action="store_true", help="of a video, write a picture a frame instead of a video")
    parser.add_argument("--recursive", action="store_true", help="also the folders in a folder; --output has them too")
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="files that cannot be read, which are named, are no failure"
    )


def _check_many(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends with the parser's error where options of ``--results`` do not fit."""
    if args.results is not None and (args.json is not None or args.output is not None):
        parser.error("--results writes lines alone: give --json and --output to another start")
    for name in ("format", "num_processes", "num_workers"):
        if getattr(args, name) is not None and args.results is None:
            parser.error(f"--{name.replace('_', '-')} goes with --results DIR")
    args.format = args.format or "jsonl"
