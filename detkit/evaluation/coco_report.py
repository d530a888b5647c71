"""COCO metrics as tables for a person."""

from collections.abc import Mapping
from typing import Any

from detkit.evaluation.coco_metrics import TASKS
from detkit.utils.tables import metric_table


def coco_report(results: Mapping[str, Any], instances: Mapping[str, int]) -> str:
    """The overall table, the table of classes and the reasons.

    Args:
        results: task -> what ``coco_metrics`` gives.
        instances: class name -> number of ground-truth objects (crowds not counted).
    """
    tasks: dict[str, Any] = {task: results[task] for task in TASKS if task in results}  # others are other evaluators'
    if not tasks:
        return "no COCO metrics"
    tables: dict[tuple[str, ...], list[list[Any]]] = {}  # one for all tasks of the same metrics
    for task, metrics in tasks.items():
        columns = tuple(key for key, value in metrics.items() if not isinstance(value, Mapping))
        tables.setdefault(columns, []).append([task, *(metrics[key] for key in columns)])
    parts = [metric_table(["COCO", *columns], rows) for columns, rows in tables.items()]
    if any("per_class" in metrics for metrics in tasks.values()):
        parts.append(_class_table(tasks, instances))
    lines = reason_lines(tasks)
    if lines:
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _class_table(tasks: Mapping[str, Any], instances: Mapping[str, int]) -> str:
    """Class, number of objects and AP of every task."""
    per_class = {task: metrics["per_class"] for task, metrics in tasks.items() if "per_class" in metrics}
    rows = [[name, n, *(aps[name] for aps in per_class.values())] for name, n in instances.items()]
    return metric_table(["class", "objects", *(f"{task} AP" for task in per_class)], rows)


def reason_lines(tasks: Mapping[str, Any]) -> list[str]:
    """One line a reason of each task's metrics, with the metrics and the classes that it is the reason for."""
    keys: dict[str, list[str]] = {}
    classes: dict[str, list[str]] = {}
    for task, metrics in tasks.items():
        for key, words in metrics.get("reasons", {}).items():
            if isinstance(words, str):
                keys.setdefault(words, []).append(f"{task} {key}")
        for name, words in metrics.get("reasons", {}).get("per_class", {}).items():
            names = classes.setdefault(words, [])
            names.extend([] if name in names else [name])
    return [f"{words}: {', '.join(names)}" for words, names in (*keys.items(), *classes.items())]
