"""The page of a report: one HTML file that loads nothing, for screens of any width, light or dark, and for paper."""

import datetime
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detkit.engine.metrics import flatten
from detkit.evaluation import CocoEvaluator
from detkit.evaluation.coco_metrics import AREAS
from detkit.evaluation.coco_results import Detections
from detkit.evaluation.errors import KINDS
from detkit.report.analysis import THRESHOLDS, Scores
from detkit.report.charts import curve_charts, size_chart, threshold_chart
from detkit.report.content import About, ReportData
from detkit.report.pictures import MOST_DRAWN
from detkit.utils import environment_report
from detkit.utils.logging import optional_output
from detkit.utils.paths import atomic_write
from detkit.visualization.curves import Series

REMEDIES = {
    "classification": "look for classes that are mixed up in the labels; more examples of those that are confused",
    "localisation": "look how tightly the labels are drawn; train longer, or on larger images",
    "both": "as classification and localisation",
    "duplicate": "a lower NMS threshold of the box head; objects that are labelled twice",
    "background": "look for objects without a label in the test set; images without objects in training",
    "missed": "larger images for small objects; more examples that look like those that are missed",
}
"""What helps against each kind of mistake."""
SIZES = {"s": "small", "m": "medium", "l": "large"}


def write_report(
    path: str | Path,
    results: Mapping[str, Any],
    evaluator: CocoEvaluator | None = None,
    about: About | None = None,
    detections: Mapping[int | str, Detections] | None = None,
) -> Path:
    """Writes the report on an evaluation as one HTML file.

    Args:
        path: the file; its folder is made.
        results: of ``evaluate``.
        evaluator: the one that gave them, with ground truth and detections; None: the page has the metrics alone.
        about: what else is known.
        detections: others than the evaluator holds, image id -> detections: of an evaluation before its last one.
    """
    with atomic_write(path) as file:
        page = render(ReportData.of(about or About(), results, evaluator, detections))
        file.write(page.encode("utf-8", "replace"))  # a file's name may have bytes that are no characters
    return Path(path)


def render(data: ReportData) -> str:
    """The page as HTML. All that comes from configs, datasets and file names is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    jinja = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    jinja.filters |= {"metric": metric, "percent": percent}
    template = jinja.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    scores = data.analysis.scores if data.analysis else None
    charts: dict[str, list[str]] = {"curves": [], "sizes": [], "thresholds": []}
    with optional_output("the report's charts"):
        if scores is not None and scores.objects:
            charts["thresholds"].append(threshold_chart(scores, data.threshold))
        charts["sizes"].append(size_chart({summary.name: summary.sizes for summary in data.datasets}))
        charts["curves"] += curve_charts(data.series)
    limits = {task: {"limits": found["limits"]} for task, found in data.tasks.items() if "limits" in found}
    rest = {name: value for name, value in data.results.items() if name not in {*data.tasks, "timing"}}
    sizes = data.analysis.sizes(data.threshold) if data.analysis else ()
    groups = data.analysis.size_groups(data.threshold) if data.analysis else ()
    return template.render(
        data=data,
        about=data.about,
        columns=[*{k: 0 for metrics in data.tasks.values() for k, v in metrics.items() if isinstance(v, int | float)}],
        column_sums=[sum(column) for column in zip(*data.confusion.cells)] if data.confusion else (),
        class_columns=["AP", "AP50", "AP75", *(f"AP{size}" for size in AREAS)],
        others=flatten(limits | {name: value for name, value in rest.items() if value is not data.errors}),
        best_steps=_best_steps(data.series),
        kinds=_kinds(data),
        scores=scores,
        thresholds=_threshold_rows(scores, data.threshold) if scores else (),
        sizes=[(SIZES[key], AREAS[key], key, *counts) for key, counts in zip(AREAS, sizes)],
        groups=groups,
        most_drawn=MOST_DRAWN,
        made=f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
        environment=environment_report(),
        charts={name: [Markup(svg) for svg in svgs if svg] for name, svgs in charts.items()},
    )


def metric(value: float | None) -> str:
    """A metric with three digits, as the log has it; a dash where there is nothing to measure."""
    return "-" if value is None or value == -1 or math.isnan(value) else f"{value:.3f}"


def percent(part: float, whole: float = 1) -> str:
    """The length of a bar, in CSS."""
    value = part / whole if whole else 0.0
    return f"{100 * min(max(value, 0.0), 1.0):.1f}%" if math.isfinite(value) else "0%"


def _best_steps(series: Series) -> list[tuple[str, float, int]]:
    """The metric, its highest value and how many steps were done then, for each AP that was taken more than once."""
    found = []
    for name, (steps, values) in series.items():
        if name.endswith("/AP") and len(values) > 1 and not all(map(math.isnan, values)):
            value, step = max((v, s) for v, s in zip(values, steps) if not math.isnan(v))
            found.append((name, value, int(step) + 1))
    return found


def _kinds(data: ReportData) -> list[tuple[str, str, int, float, str]]:
    """Name, words, number, cost and remedy of the kinds of mistakes, the costliest first."""
    errors = data.errors or {"cost": {}}
    rows = [(k, KINDS[k], errors["counts"][k], cost, REMEDIES[k]) for k, cost in errors["cost"].items()]
    return sorted(rows, key=lambda row: -row[3])


def _threshold_rows(scores: Scores, best: float) -> list[tuple[Any, ...]]:
    """Threshold, precision, recall, F1, detections and right ones, for every tenth and the best."""
    chosen = sorted({*range(0, len(THRESHOLDS), 10), round(best * len(THRESHOLDS))})
    columns = (THRESHOLDS, scores.precision, scores.recall, scores.f1, scores.found, scores.right)
    return [tuple(column[i].item() for column in columns) for i in chosen]
