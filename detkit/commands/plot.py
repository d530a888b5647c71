"""Draws runs in one picture: the work of ``detkit plot``."""

from collections.abc import Sequence

from detkit.commands.parsers.plot import parse_arguments
from detkit.visualization.compare_runs import matching_metrics, plot_runs, read_runs


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when it went well."""
    args = parse_arguments(argv)
    runs = read_runs(args.runs)
    names = matching_metrics(runs, args.metric)
    out = plot_runs(runs, names, args.output, smooth_share=args.smooth)
    print(f"{out}: {', '.join(names)} of {', '.join(runs)}")
    return 0
