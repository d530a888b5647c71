"""Show what a two-stage detector does with an image, stage by stage, as pictures.

For each image a folder with: 1_input.png (what the network sees, with the part that is no padding), 2_anchors.png
(anchors matched to the ground truth), 3_proposals.png (the best by objectness, before and after suppression),
4_regions.png (the regions that training would sample, with their classes), 5_detections.png. Anchors and regions need
ground truth, so an image of your own has none of these two.

examples:
  the first test images of a run, with its weights
    detkit visualize model output/quick_start

  anchors of a config before any training: do they fit the objects?
    detkit visualize model my.yaml --num 10 --output output/look

  one image of your own
    detkit visualize model my.yaml --weights my.pth --image photo.jpg --output output/look
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import add_config, add_data, command_parser, count, parse_with_config, score, take_none
from detkit.paths import local_path, output_folder, path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("visualize model", __doc__)
    add_config(parser)
    add_data(parser, "what is drawn")
    parser.add_argument(
        "--weights",
        type=path_or_address,
        metavar="FILE",
        help="a checkpoint, or none (default: the run's, or what a training with this config starts from)",
    )
    parser.add_argument(
        "--image", type=local_path, nargs="+", default=[], metavar="FILE", help="instead of test images"
    )
    parser.add_argument("--num", type=count, metavar="N", help="how many test images (default: 4)")
    parser.add_argument("--top", type=count, default=50, metavar="N", help="proposals in a picture (default: 50)")
    parser.add_argument("--score-thresh", type=score, default=0.5, metavar="P", help="of detections (default: 0.5)")
    parser.add_argument(
        "--output", type=output_folder, metavar="DIR", help="where the pictures go (default: <train.output_dir>/stages)"
    )
    parser.add_argument("--trust-imports", action="store_true", help="run the code that the config imports")
    args = parse_with_config(parser, argv)
    take_none(args)
    if args.image and args.num is not None:
        parser.error("--num counts test images, and --image gives others instead: give one of them")
    args.num = 4 if args.num is None else args.num
    return args
