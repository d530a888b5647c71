"""What a report says, as plain data: everything that is on the page, before it is a page."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data.interfaces import Dataset
from detkit.evaluation import CocoEvaluator
from detkit.evaluation.coco_metrics import TASKS
from detkit.evaluation.coco_report import reason_lines
from detkit.evaluation.coco_results import Detections
from detkit.evaluation.errors import KINDS, error_metrics
from detkit.report.analysis import THRESHOLDS, Analysis
from detkit.report.pictures import WorstImage, worst_images
from detkit.utils.logging import optional_output
from detkit.visualization.curves import Series, read_metrics

NUM_CONFUSED, NUM_PAIRS, NUM_WORST = 30, 15, 12
"""Classes of a confusion matrix, pairs of classes that are listed, and images that are drawn."""


@dataclasses.dataclass(frozen=True)
class About:
    """What is known of an evaluation beside its results; all of it may be missing.

    Args:
        title: what was evaluated.
        weights: which weights of it.
        config: the run's config, as YAML.
        metrics_file: the run's ``metrics.jsonl``.
        datasets: ``training`` and ``test`` data.
        findings: the doctor's, as mappings with ``severity``, ``where``, ``what``, ``count``, ``examples`` and ``fix``;
            None: it was not asked.
        others: what it is on -> file name, of reports on other weights of the run.
    """

    title: str = "Evaluation"
    weights: str = ""
    config: str = ""
    metrics_file: Path | None = None
    datasets: Mapping[str, Dataset] = dataclasses.field(default_factory=dict)
    findings: Sequence[Mapping[str, Any]] | None = None
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ClassRow:
    """A class: its AP by task and what else is known, and its precision, recall and F1 at its best threshold.

    Args:
        metrics: task -> ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``; -1 where there is nothing to measure.
        threshold: the score with the best F1; None where no detection is right at any.
        quality: precision, recall and F1 at that threshold; NaN where there is none.
        reason: why a metric has no value.
    """

    name: str
    objects: int
    metrics: Mapping[str, Mapping[str, float]]
    threshold: float | None
    quality: Sequence[float]
    reason: str


@dataclasses.dataclass(frozen=True)
class Confusion:
    """How often an object of a class (row) was detected as a class (column).

    The last row is background, the last column missed. ``pairs`` are the classes that are confused most: object,
    detection, how often.
    """

    names: Sequence[str]
    cells: Sequence[Sequence[int]]
    left_out: int
    pairs: Sequence[tuple[str, str, int]]


@dataclasses.dataclass(frozen=True)
class DataSummary:
    """A dataset in numbers. ``class_counts`` is ``(K,)``, ``sizes`` the root of each object's box's area, in pixels."""

    name: str
    words: str
    images: int
    empty: int
    objects: int
    crowds: int
    image_sizes: str
    class_names: Sequence[str]
    class_counts: np.ndarray
    sizes: np.ndarray

    @staticmethod
    def of(name: str, dataset: Dataset) -> "DataSummary":
        """Counts what is in a dataset; crowds are not objects. Reads no image."""
        table, size = dataset.objects(), np.array([dataset.image_size(i) for i in range(len(dataset))]).reshape(-1, 2)
        boxes, classes = table.boxes[~table.crowd].astype(np.float64), table.classes[~table.crowd]
        sides = np.sort(size.max(1)) if len(size) else np.zeros(1, int)
        return DataSummary(
            name,
            (dataset.summary().splitlines() or [""])[0],
            len(dataset),
            len(dataset) - len(np.unique(table.images[~table.crowd])),
            len(boxes),
            int(table.crowd.sum()),
            f"{sides[0]} to {sides[-1]} pixels" if sides[0] < sides[-1] else f"{sides[0]} pixels",
            tuple(dataset.class_names),
            np.bincount(classes, minlength=len(dataset.class_names)),
            np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], 1)),
        )


@dataclasses.dataclass
class ReportData:
    """Everything on the page. What could not be had is None, or empty.

    Args:
        about: the rest of what is known.
        results: of the evaluation, as ``evaluation.json`` has them.
        analysis: of its detections, and ``threshold`` the score from which the page counts them.
        errors: as ``DetectionErrors`` gives them.
    """

    about: About
    results: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]]
    reasons: Sequence[str]
    classes: Sequence[ClassRow]
    analysis: Analysis | None = None
    threshold: float = 0.5
    errors: Mapping[str, Any] | None = None
    confusion: Confusion | None = None
    worst: Sequence[WorstImage] = ()
    series: Series = dataclasses.field(default_factory=dict)
    datasets: list[DataSummary] = dataclasses.field(default_factory=list)
    times: Sequence[tuple[str, str]] = ()

    @staticmethod
    def of(
        about: About,
        results: Mapping[str, Any],
        evaluator: CocoEvaluator | None,
        detections: Mapping[int | str, Detections] | None = None,
    ) -> "ReportData":
        """Takes an evaluation's results, and what ``evaluator`` collected or else other ``detections``.

        What fails is left out, and the log says why.
        """
        tasks: dict[str, Any] = {
            task: found for task in TASKS if isinstance(found := results.get(task), Mapping) and "AP" in found
        }
        data = ReportData(about, results, tasks, reason_lines(tasks), class_rows(tasks, None, ()))
        with optional_output("the report's curves"):
            if about.metrics_file is not None and about.metrics_file.is_file():
                data.series = read_metrics(about.metrics_file)
        for name, dataset in about.datasets.items():
            with optional_output(f"the report's summary of the {name} data"):
                data.datasets.append(DataSummary.of(name, dataset))
        if evaluator is not None:
            with optional_output("the report's analysis of the detections"):
                data.analyse(evaluator, evaluator.detections if detections is None else detections)
        data.times = times(results.get("timing"), data.series)
        return data

    def analyse(self, evaluator: CocoEvaluator, detections: Mapping[int | str, Detections]) -> None:
        """Fills in what the detections say."""
        has_masks = "mask" in self.tasks and all(found.masks is not None for found in detections.values())
        names, task = evaluator.dataset.class_names, "mask" if has_masks else "box"
        analysis = Analysis.of(evaluator.truth, detections, task, evaluator.max_detections)  # type: ignore[arg-type]
        self.threshold = analysis.threshold
        given = (self.results.get(name) for name in ("mask_errors", "errors"))  # others may have these names, too
        known = (found for found in given if isinstance(found, Mapping) and {*found.get("cost", ())} == {*KINDS})
        self.errors = next(known, None) or error_metrics(analysis.matches, self.threshold)
        self.classes = class_rows(self.tasks, analysis, names)
        self.confusion = confusion(analysis, self.threshold, names)
        self.analysis = analysis
        self.worst = worst_images(analysis, evaluator.dataset, evaluator.truth, detections, self.threshold, NUM_WORST)


def class_rows(
    tasks: Mapping[str, Mapping[str, Any]], analysis: Analysis | None, names: Sequence[str]
) -> list[ClassRow]:
    """A row a class, the one with the lowest AP first, and those without an AP last."""
    names = names or list(next((m["per_class"] for m in tasks.values() if "per_class" in m), ()))
    scores = analysis.class_scores if analysis else None
    best = scores.best().tolist() if scores else [-1] * len(names)
    curves = [scores.precision, scores.recall, scores.f1] if scores else [np.full((len(names), 1), np.nan)] * 3
    rows = []
    for k, name in enumerate(names):
        metrics = {
            task: {"AP": found["per_class"][name], **found.get("class_metrics", {}).get(name, {})}
            for task, found in tasks.items()
            if name in found.get("per_class", {})
        }
        reasons = {found.get("reasons", {}).get("per_class", {}).get(name, "") for found in tasks.values()} - {""}
        values = [float(curve[k, best[k]]) if best[k] >= 0 else math.nan for curve in curves]
        threshold = float(THRESHOLDS[best[k]]) if best[k] >= 0 else None
        objects = int(scores.objects[k]) if scores else 0
        rows.append(ClassRow(name, objects, metrics, threshold, tuple(values), "; ".join(sorted(reasons))))
    main = [next((m["AP"] for task in reversed(TASKS) if (m := row.metrics.get(task))), -1) for row in rows]
    order = sorted(range(len(rows)), key=lambda k: (main[k] == -1, main[k]))
    return [rows[k] for k in order]


def confusion(analysis: Analysis, threshold: float, names: Sequence[str]) -> Confusion:
    """The confusion matrix; of many classes, those that are confused most."""
    pairs, background = analysis.confusions(threshold), len(names)
    weights = np.zeros((background + 1, 2), np.int64)  # with other classes; with background
    for (true, seen), number in pairs.items():
        for k in {true, seen} if true != seen else ():
            weights[k, int(background in (true, seen))] += number
    order = np.lexsort((-weights[:-1, 1], -weights[:-1, 0]))
    shown = [*sorted(order[:NUM_CONFUSED].tolist()), background]
    cells = [[pairs[true, seen] for seen in shown] for true in shown]
    most = [(names[a], names[b], n) for (a, b), n in pairs.most_common() if a != b and background not in (a, b)]
    shown_names = [*(names[k] for k in shown[:-1]), "background"]
    return Confusion(shown_names, cells, len(names) - len(shown) + 1, most[:NUM_PAIRS])


def times(timing: Mapping[str, Any] | None, series: Series) -> list[tuple[str, str]]:
    """What took how long, in words."""
    rows = []
    if "step_time" in series:
        steps, seconds = (np.array(values, np.float64) for values in series["step_time"])
        number, mean = int(steps[-1]) + 1, float(np.nanmean(seconds))
        waiting = np.nanmean(series.get("data_time", ((), [math.nan]))[1]) / mean
        rows.append(("training", f"{number} steps of {mean:.3g} s, about {_duration(number * mean)}"))
        rows.append(("waiting for data", "unknown" if math.isnan(waiting) else f"{waiting:.0%} of the training"))
    if timing and timing["images"]:
        images = timing["images"]
        rows.append(("evaluation", f"{images} images in {timing['seconds']:.1f} s"))
        rows.append(("per image", f"{1000 * timing['seconds'] / images:.3g} ms, loading included"))
        rows.append(("in the model", f"{1000 * timing['model_seconds'] / images:.3g} ms an image"))
    return rows


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
