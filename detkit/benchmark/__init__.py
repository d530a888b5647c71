"""Benchmarks: detkit and what it is measured against, in turn, in one process, on the same inputs and weights.

A benchmark is a module with ``add_arguments(parser)`` and ``run(args) -> Report``; ``BENCHMARKS`` names them.
"""

from types import ModuleType

from detkit.benchmark import data, evaluate, importing, infer, paste, train
from detkit.benchmark.report import Report, Row
from detkit.benchmark.timing import Contestant, Measurement, measure

BENCHMARKS: dict[str, ModuleType] = {
    "infer": infer,
    "train": train,
    "data": data,
    "paste": paste,
    "eval": evaluate,
    "import": importing,
}
"""Subcommand of ``tools/benchmark.py`` -> its module; the module's docstring is its help."""

__all__ = ["BENCHMARKS", "Contestant", "Measurement", "Report", "Row", "measure"]
