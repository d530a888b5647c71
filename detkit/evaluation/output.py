"""What is left of an evaluation: a JSON file and a text."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detkit.evaluation.interfaces import Evaluator
from detkit.utils.distributed import is_main
from detkit.utils.paths import atomic_write


def write_evaluation(
    results: Mapping[str, Any], evaluators: Sequence[Evaluator], path: str | Path, sets: Sequence[str] = ()
) -> str:
    """Writes what ``evaluate`` gave as JSON and returns it as tables for a person, the speed in the last line.

    On other ranks than 0 it writes nothing and returns "".

    Args:
        results: of ``evaluate``.
        evaluators: the ones that gave them.
        path: the JSON file; its folder is made.
        sets: names under which there may be results of other weights of the same model in ``results``.
    """
    if not is_main():
        return ""
    with atomic_write(path, "w") as file:
        json.dump(results, file, indent=2)
    parts = [evaluator.report(dict(results)) for evaluator in evaluators]
    for name in (name for name in sets if name in results):
        parts += [f"{name} weights\n{evaluator.report(dict(results[name]))}" for evaluator in evaluators]
    if "timing" in results:
        timing = results["timing"]
        parts.append(
            f"{timing['images']} images in {timing['seconds']:.1f} s"
            f" ({timing['images_per_second']:.1f} images/s; the model alone took {timing['model_seconds']:.1f} s)"
        )
    return "\n\n".join(parts)
