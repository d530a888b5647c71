"""Export a model as a program for other engines: ONNX (.onnx), OpenVINO (.xml) or torch.export (.pt2).

The file says what goes in and what comes out (detkit export --describe FILE shows it), so that a program in any
language can use it; detkit runs it, too: `detkit predict --weights FILE`, `detkit evaluate RUN --weights FILE`.

examples:
  what a training has left, for ONNX Runtime
    detkit export output/quick_start model.onnx

  for OpenVINO in bf16, compared with the model on the test images; the verdict goes to model.xml.verify.json
    detkit export output/quick_start model.xml --precision bf16 --verify

  in int8, with ranges from 200 training images
    detkit export output/quick_start model.xml --precision int8 --calibration 200 --verify

  for batches of one image of 640 x 640 pixels, which some engines run faster
    detkit export output/quick_start model.onnx --batch 1 --size 640 640

  a config with weights, with another threshold; several forms at once
    detkit export coco/mask_rcnn_R_50_FPN_1x a.onnx a.xml --weights model.pth \\
        model.roi_heads.box_head.detection.score_thresh=0.3
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import command_parser, count
from detkit.paths import local_path, output_file, path_or_address

SUFFIXES = (".onnx", ".xml", ".pt2")
"""Of files, whose names may have a "=". Others are looked up once the config has imported forms of the user's own."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; what stands without an option is split into ``files`` and ``overrides``."""
    parser = command_parser("export", __doc__)
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help="a run, one of detkit's configs, or a YAML of yours"
    )
    parser.add_argument(
        "others", nargs="*", metavar="FILE|key.path=value", help="the files to write, and changes to the config"
    )
    parser.add_argument(
        "--weights", type=path_or_address, metavar="FILE", help="a checkpoint (default: the run's model_final.pth)"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8"),
        default="fp32",
        help="what convolutions compute in (default: fp32); int8 for .xml, bf16 for .xml and .pt2",
    )
    parser.add_argument("--batch", type=count, metavar="N", help="images at a time (default: any number)")
    parser.add_argument(
        "--size", type=count, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the padded images (default: any)"
    )
    parser.add_argument(
        "--calibration", type=count, metavar="N", help="training images for int8's ranges (default: 100)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare with the model on the test images: outputs, AP and time"
    )
    parser.add_argument(
        "--verify-images", type=count, metavar="N", help="so many of them at most (default: all), without AP"
    )
    parser.add_argument("--describe", type=local_path, metavar="FILE", help="show what a program's file says of itself")
    parser.add_argument("--trust-imports", action="store_true", help="run the code that a run's config imports")
    args = parser.parse_intermixed_args(argv)
    args.overrides = [text for text in args.others if "=" in text and not text.lower().endswith(SUFFIXES)]
    try:
        args.files = [output_file(text) for text in args.others if text not in args.overrides]
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument FILE: {error}")
    if args.describe is not None and args.config is not None:
        parser.error("--describe shows a file, and writes none: leave out CONFIG and FILE")
    if args.describe is None and (args.config is None or not args.files):
        parser.error("give at least one FILE to write, model.onnx, model.xml or model.pt2, after the run or CONFIG")
    if args.calibration is not None and args.precision != "int8":
        parser.error("--calibration: gives int8 its ranges; add --precision int8, or leave it out")
    args.calibration = args.calibration or 100
    args.verify = args.verify or args.verify_images is not None
    return args
