#!/usr/bin/env python3
"""Measure detkit against torchvision: in turn in one process, on the same inputs and weights.

Each contestant runs once a round. The table gives medians, and as ratio the median over the rounds of a run's time over
the baseline's of the same round, so that other work on the machine meets both.

examples:
  inference on the CPU, with two threads
    OMP_NUM_THREADS=2 python tools/benchmark.py infer

  a training step on a GPU; figures as JSON
    python tools/benchmark.py train --device cuda --batch 8 --json train.json
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from detkit import command_line
from detkit.benchmark import BENCHMARKS
from detkit.benchmark.options import positive


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
        command.add_argument("--rounds", type=positive, default=7, help="measured runs of each (default: 7)")
        command.add_argument("--warmup", type=positive, default=2, help="runs of each before that (default: 2)")
        command.add_argument("--json", type=Path, metavar="FILE", help="where the figures go, too")
        module.add_arguments(command)
    return parser.parse_args(argv)


def benchmark(args: argparse.Namespace) -> int:
    """Runs one benchmark."""
    report = BENCHMARKS[args.benchmark].run(args)
    print(report.table())
    if args.json is not None:
        report.write(args.json)
        print(f"\nfigures: {args.json}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool; 0 when it went well, 2 after a user's mistake."""
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return command_line.run(lambda: benchmark(args))


if __name__ == "__main__":
    sys.exit(main())
