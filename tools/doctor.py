#!/usr/bin/env python3
"""Find what is wrong with data, config and weights together, before anything runs.

Prints a table: how bad it is, where, what, how many, examples by file and annotation id, and what to do. Ends with 0
where there is nothing but notes, 1 with warnings, 2 with errors.

examples:
  everything, every image decoded
    python tools/doctor.py --config-file configs/balloon/mask_rcnn_mobilenet_v2_FPN.yaml

  in seconds, without looking into images
    python tools/doctor.py --config-file my.yaml --quick

  weights to start from, and a resume
    python tools/doctor.py --config-file my.yaml --weights model.pth
    python tools/doctor.py --config-file output/run/config.yaml --resume

  objects against anchors as an image, and all findings with all examples as JSON
    python tools/doctor.py --config-file my.yaml --histogram anchors.png --json findings.json
"""

import argparse
import sys
from collections.abc import Sequence

from detkit.paths import local_path, path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, type=local_path, metavar="FILE", help="a YAML")
    parser.add_argument(
        "--weights",
        type=path_or_address,
        metavar="FILE",
        help="a checkpoint to start from (default: train.init_weights)",
    )
    parser.add_argument("--resume", action="store_true", help="also check the checkpoint that a resume would take")
    parser.add_argument("--quick", action="store_true", help="no image is read, and fewer are tried on the anchors")
    parser.add_argument("--num-processes", type=int, default=1, metavar="N", help="how many will train (default: 1)")
    parser.add_argument("--json", type=local_path, metavar="FILE", help="write the findings, with all examples")
    parser.add_argument("--histogram", type=local_path, metavar="FILE", help="write objects against anchors as a PNG")
    parser.add_argument("--trust-imports", action="store_true", help="run the code that the config imports")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="changes to the config")
    args = parser.parse_intermixed_args(argv)
    if args.num_processes < 1:
        parser.error(f"--num-processes: expected at least 1, got {args.num_processes}")
    return args


if __name__ == "__main__":
    parse_arguments(None)  # so --help and mistakes are answered at once: what is imported from here on takes seconds

from detkit import command_line
from detkit.doctor import CheckContext, exit_code, findings_table, run_checks, write_findings
from detkit.experiment import load_experiment


def check(args: argparse.Namespace) -> int:
    """Runs the checks that the command line asks for."""
    context = CheckContext(
        load_experiment(args.config_file, args.overrides, trust_imports=args.trust_imports),
        quick=args.quick,
        weights=args.weights,
        resume=args.resume,
        num_processes=args.num_processes,
        bar=True,
    )
    context.histogram = args.histogram
    context.load()
    findings = run_checks(context)
    print(findings_table(findings))
    if args.histogram and not context.histogram_drawn:
        print(f"{args.histogram}: not written: objects or a model with anchors are missing", file=sys.stderr)
    if args.json:
        write_findings(findings, args.json)
    return exit_code(findings)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool; 0 for nothing but notes, 1 for warnings, 2 for errors or a config that cannot be read."""
    args = parse_arguments(argv)
    return command_line.run(lambda: check(args))


if __name__ == "__main__":
    sys.exit(main())
