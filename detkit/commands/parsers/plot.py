"""Compare runs in one picture: losses, average precision, learning rate, or any other metric of metrics.jsonl.

Runs that are still training can be drawn too.

examples:
  two runs
    detkit plot output/quick_start output/pafpn --output output/comparison.png

  how long steps take and wait for data, in one run
    detkit plot output/quick_start --metric step_time data_time --output output/times.png

  everything that an evaluation gave
    detkit plot output/quick_start --metric 'box/*' 'mask/*' --smooth 0
"""

import argparse
from collections.abc import Sequence

from detkit.commands.parsers import command_parser
from detkit.paths import output_file


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("plot", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run, or its metrics.jsonl")
    parser.add_argument("--metric", nargs="+", default=[], metavar="NAME", help="metrics to draw; * is anything")
    parser.add_argument(
        "--output", type=output_file, default="metrics.png", metavar="FILE", help="the picture (default: %(default)s)"
    )
    parser.add_argument(
        "--smooth",
        type=float,
        default=0.05,
        metavar="PART",
        help="lines are running means over this part of a run, 0 for none (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if not 0 <= args.smooth < 1:
        parser.error(f"--smooth {args.smooth:g}: expected a part of the run, at least 0 and below 1")
    return args
