"""Find what is wrong with data, config and weights together, before anything runs.

Prints a table: how bad it is, where, what, how many, examples by file and annotation id, and what to do. Ends with 0
where there is nothing but notes, 1 with warnings, 2 with errors.

examples:
  everything, every image decoded
    detkit doctor balloon/mask_rcnn_mobilenet_v2_FPN

  in seconds, without looking into images
    detkit doctor my.yaml --quick

  weights to start from, and a resume
    detkit doctor my.yaml --weights model.pth
    detkit doctor output/run/config.yaml --resume

  objects against anchors as an image, and all findings with all examples as JSON
    detkit doctor my.yaml --histogram anchors.png --json findings.json
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import add_config, add_data, command_parser, count, parse_with_config, take_none
from detkit.paths import output_file, path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("doctor", __doc__)
    add_config(parser)
    add_data(parser, "what is looked at")
    parser.add_argument(
        "--weights",
        type=path_or_address,
        metavar="FILE",
        help="a checkpoint to start from, or none (default: train.init_weights)",
    )
    parser.add_argument("--resume", action="store_true", help="also check the checkpoint that a resume would take")
    parser.add_argument("--quick", action="store_true", help="no image is read, and fewer are tried on the anchors")
    parser.add_argument("--num-processes", type=count, default=1, metavar="N", help="how many will train (default: 1)")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the findings, with all examples")
    parser.add_argument("--histogram", type=output_file, metavar="FILE", help="write objects against anchors as a PNG")
    parser.add_argument("--trust-imports", action="store_true", help="run the code that the config imports")
    args = parse_with_config(parser, argv)
    take_none(args)
    return args
