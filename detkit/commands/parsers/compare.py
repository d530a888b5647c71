"""Write a parity report: whether detkit computes what the framework computes that a checkpoint comes from.

Runs both on the same images and prints the largest difference at each stage: input, feature maps, proposals, class
scores, box deltas, boxes, masks, losses. "End to end", both start from the image; "on the reference's input", detkit's
stage gets what the reference's stage got, so the row says which stage is wrong, not which ones come after it. A row is
ok, DIFFERS, or inherits: right by itself, but fed by a stage that is not. Boxes are compared as sets; "tied" are those
where rounding decides which of several equal scores suppresses the others. For the losses both sides use every anchor
and proposal, and norms use their running statistics; images without annotations get made-up objects.

The exit code is 0 if everything is within its tolerance, 1 if not, 2 for a mistake in the arguments or files.

examples:
  a model of torchvision's; the file may be torchvision's own or a checkpoint of detkit
    detkit compare --reference torchvision:maskrcnn_resnet50_fpn weights.pth image.jpg

  the two implementations, without a checkpoint: random weights, with norms' statistics taken from the first image and
  the last layers scaled so that scores differ on it (as initialised, all are nearly equal)
    detkit compare --reference torchvision:fasterrcnn_resnet50_fpn_v2 random image.jpg --seed 1

  several images in batches, small, with the losses of real objects
    detkit compare --reference torchvision:maskrcnn_resnet50_fpn weights.pth images/*.jpg \\
        --batch-size 2 --short-edge 256 --annotations instances.json

  a fixture, a JSON with an .npz beside it that holds what Detectron2 or pytorch-mask-rcnn computed on one image; the
  word fixture makes its weights again from their names
    detkit compare --reference fixture.json fixture image.jpg --annotations instances.json
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import command_parser, count
from detkit.paths import local_path, output_file, path_or_address

PREFIX = "torchvision:"
SETTINGS = ("short_edge", "max_size", "score_thresh", "norm_eps")
"""The fields of ``detkit.comparisons.torchvision_reference.Settings``."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("compare", __doc__)
    parser.add_argument(
        "weights", type=path_or_address, metavar="WEIGHTS", help="a file; or: random (torchvision), fixture (a fixture)"
    )
    parser.add_argument("images", nargs="+", type=local_path, metavar="IMAGE", help="image files")
    parser.add_argument(
        "--reference",
        required=True,
        metavar="REF",
        help=f"a fixture's JSON, or {PREFIX}NAME, a detector of torchvision (an unknown one is answered with the list)",
    )
    parser.add_argument(
        "--config-file", type=local_path, metavar="FILE", help="detkit's model (default: the reference's)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="key.path=value", help="a change to the config; may be repeated"
    )
    parser.add_argument("--annotations", metavar="JSON", help="COCO instances of the images, for the losses")
    parser.add_argument("--batch-size", type=count, metavar="N", help="images that go through together (default: 1)")
    parser.add_argument("--seed", type=int, metavar="N", help="of random weights and made-up objects (default: 0)")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="the rows and the verdict, as JSON")
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
    if not args.reference.startswith(PREFIX):
        given = [name for name in (*SETTINGS, "batch_size", "seed") if getattr(args, name) is not None]
        if given:
            parser.error(f"--{given[0].replace('_', '-')}: a fixture has its own settings; it goes with {PREFIX}NAME")
        if len(args.images) > 1:
            parser.error("a fixture is of one image")
    args.batch_size, args.seed = args.batch_size or 1, args.seed or 0
    return args
