#!/usr/bin/env python3
"""Measure detkit against torchvision: in turn in one process, on the same inputs and weights.

Each candidate runs once a round. The table gives medians, and as ratio the median over the rounds of a run's time over
the baseline's of the same round, so that other work on the machine meets both.

examples:
  inference on the CPU, with two threads
    OMP_NUM_THREADS=2 python tools/benchmark.py infer

  the same in other engines, which detkit's model is exported for
    OMP_NUM_THREADS=2 python tools/benchmark.py infer --engine torch openvino onnxruntime --precision fp32 bf16 int8

  a training step on a GPU; numbers as JSON
    python tools/benchmark.py train --device cuda --batch 8 --json train.json

  all that needs a GPU, in under eight minutes; and that it runs to its end, here
    python tools/benchmark.py gpu --json gpu.json
    python tools/benchmark.py gpu --device cpu --dry-run
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.options import BENCHMARKS, Options
from detkit.paths import local_path


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, options in BENCHMARKS.items():
        command = commands.add_parser(name, help=options.__doc__, description=options.__doc__)
        options.add_to(command)
        command.add_argument("--json", type=local_path, metavar="FILE", help="where the numbers go, too")
    args = parser.parse_args(argv)
    try:
        args.options = BENCHMARKS[args.benchmark].of(args)
    except ValueError as error:
        commands.choices[args.benchmark].error(str(error))
    return args


if __name__ == "__main__":
    parse_arguments(None)  # so --help and mistakes are answered at once: what is imported from here on takes seconds

from detkit import command_line


def benchmark(options: Options, json: Path | None) -> int:
    """Runs one benchmark, and writes its numbers to the file ``json``, too."""
    report = options.run()
    print(report.table())
    if json is not None:
        report.write(json)
        print(f"\nnumbers: {json}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool; 0 when it went well, 2 after a user's mistake."""
    args = parse_arguments(argv)
    return command_line.run(lambda: benchmark(args.options, args.json))


if __name__ == "__main__":
    sys.exit(main())
