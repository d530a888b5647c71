"""Looks for what is wrong: the work of ``detkit doctor``."""

import argparse
import sys
from collections.abc import Sequence

from detkit.commands.loading import load_given
from detkit.commands.parsers.doctor import parse_arguments
from detkit.doctor import CheckContext, exit_code, findings_table, run_checks, write_findings


def check(args: argparse.Namespace) -> int:
    """Runs the checks that the command line asks for."""
    context = CheckContext(
        load_given(args),
        quick=args.quick,
        weights=args.weights,
        resume=args.resume,
        num_processes=args.num_processes,
        bar=True,
    )
    context.histogram = args.histogram
    context.load()
    for name, part in (("training", context.train), ("test", context.test)):
        if part is not None:
            print(f"\n{name} data\n{part.dataset.summary()}")
    findings = run_checks(context)
    print(f"\n{findings_table(findings)}")
    if args.histogram and not context.histogram_drawn:
        print(f"{args.histogram}: not written: objects or a model with anchors are missing", file=sys.stderr)
    if args.json:
        write_findings(findings, args.json)
    return exit_code(findings)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 for nothing but notes, 1 for warnings, 2 for errors or a config that cannot be read."""
    return check(parse_arguments(argv))
