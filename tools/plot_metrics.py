#!/usr/bin/env python3
"""Compare runs in one picture: losses, average precision, learning rate, or any other metric of metrics.jsonl.

Runs that are still training can be drawn too.

examples:
  two runs
    python tools/plot_metrics.py output/quick_start output/pafpn --output output/comparison.png

  how long steps take and wait for data, in one run
    python tools/plot_metrics.py output/quick_start --metric step_time data_time --output output/times.png

  everything that an evaluation gave
    python tools/plot_metrics.py output/quick_start --metric 'box/*' 'mask/*' --smooth 0
"""

import argparse
import sys
from collections.abc import Sequence

from detkit.paths import local_path


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run, or its metrics.jsonl")
    parser.add_argument("--metric", nargs="+", default=[], metavar="NAME", help="metrics to draw; * is anything")
    parser.add_argument(
        "--output", type=local_path, default="metrics.png", metavar="FILE", help="the picture (default: %(default)s)"
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


if __name__ == "__main__":
    parse_arguments(None)  # so --help and mistakes are answered at once: what is imported from here on takes seconds

from detkit import command_line
from detkit.visualization.compare_runs import matching_metrics, plot_runs, read_runs


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool; 0 when it went well."""
    args = parse_arguments(argv)
    runs = read_runs(args.runs)
    names = matching_metrics(runs, args.metric)
    out = plot_runs(runs, names, args.output, smooth_share=args.smooth)
    print(f"{out}: {', '.join(names)} of {', '.join(runs)}")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
