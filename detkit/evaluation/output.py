"""Evaluation results as a file and as text."""

import json
import os
from collections.abc import Sequence
from typing import Any

from detkit.evaluation.interfaces import Evaluator
from detkit.utils import atomic_write


def write_evaluation(results: dict[str, Any], evaluators: Sequence[Evaluator], path: str | os.PathLike[str]) -> str:
    """Writes ``results`` as JSON and returns the evaluators' tables for a person."""
    with atomic_write(path, "w") as file:
        json.dump(results, file, indent=2)
    return "\n\n".join(evaluator.report(results) for evaluator in evaluators)
