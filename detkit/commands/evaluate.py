"""Evaluates weights: the work of ``detkit evaluate``."""

from collections.abc import Sequence

from detkit.commands.parsers.evaluate import parse_arguments
from detkit.commands.train import start


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when it went well, 75 when it was asked to leave."""
    return start("evaluate", parse_arguments(argv), argv)
