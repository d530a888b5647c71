"""The reports of a run: what its last evaluation found, with what is known of the run."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detkit.config import to_yaml
from detkit.data.interfaces import Dataset
from detkit.engine import Hook
from detkit.engine.interfaces import Training
from detkit.engine.metrics import Line
from detkit.evaluation import CocoEvaluator, Evaluator
from detkit.evaluation.coco_results import Detections
from detkit.experiment import Experiment
from detkit.report.content import About
from detkit.report.page import write_report
from detkit.utils.distributed import is_main
from detkit.utils.logging import optional_output
from detkit.utils.paths import atomic_write
from detkit.utils.run_folder import run_file
from detkit.zoo import shown

_NOTHING = {"severity": "note", "where": "", "what": "", "count": 1, "examples": [], "fix": ""}
logger = logging.getLogger(__name__)


class RunReport:
    """Keeps what evaluations found, and writes ``report.html`` into the run's folder, and one a further set of weights.

    Args:
        experiment: the run's.
        evaluators: those that evaluate it; the page is on the first ``CocoEvaluator``.

    Attributes:
        findings: the doctor's at the start of a training; None: those that an earlier training here left.
    """

    def __init__(self, experiment: Experiment, evaluators: Sequence[Evaluator]):
        self.experiment = experiment
        self.evaluator = next((e for e in evaluators if isinstance(e, CocoEvaluator)), None)
        self.findings: Sequence[Any] | None = None
        self._found: list[Mapping[int | str, Detections]] = []

    def keep(self, num_sets: int = 0) -> None:
        """After an evaluation: keeps its detections, and those of the ``num_sets`` before."""
        if self.evaluator is not None and is_main():
            self._found = [*self._found, self.evaluator.detections][-1 - num_sets :]

    def write(
        self,
        results: Mapping[str, Any],
        weights: str,
        sets: Sequence[str] = (),
        *,
        trained: bool,
        path: Path | None = None,
    ) -> None:
        """Writes the reports; an error is logged and ends nothing. Only rank 0 writes.

        Args:
            results: of ``evaluate``, with those of further sets of weights under their names.
            weights: which weights were evaluated first, in words.
            sets: names of the further sets, in the order in which they were evaluated.
            trained: after a training, which has read its data.
            path: the file of the first; None: ``report.html`` in the run's folder.
        """
        if not is_main():
            return
        folder, data = Path(self.experiment.train.output_dir), self.experiment.data
        datasets: dict[str, Dataset] = {"training": data.train_set} if trained else {}
        datasets["test"] = data.test_set
        names = ["", *(name for name in sets if name in results)]
        files = {name: run_file(folder, f"report_{name}.html" if name else "report.html") for name in names}
        files[""] = path or files[""]
        for number, (name, file) in enumerate(files.items()):
            with optional_output(file.name):
                about = About(
                    title=folder.resolve().name,
                    weights=f"{name} {weights}".strip(),
                    config=to_yaml(_without_secrets(self.experiment.tree)),
                    metrics_file=folder / "metrics.jsonl",
                    datasets=datasets,
                    findings=self._findings(folder),
                    others={
                        f"{other} weights" if other else "weights of the training": path.name
                        for other, path in files.items()
                        if other != name
                    },
                )
                found = self._found[number] if len(self._found) == len(names) else None
                own = results[name] if name else {key: value for key, value in results.items() if key not in names}
                write_report(file, own, self.evaluator, about, found)  # what has a page of its own is told there

    def _findings(self, folder: Path) -> Sequence[Mapping[str, Any]] | None:
        """The doctor's, kept in the run's folder for evaluations that come later."""
        path = folder / "doctor_findings.json"
        if self.findings is not None:
            rows = [dataclasses.asdict(finding) for finding in self.findings]
            with atomic_write(path, "w") as file:
                json.dump(rows, file, indent=1)
            return rows
        if path.is_file():
            with optional_output("the doctor's findings in the report"):
                return [{**_NOTHING, **row} for row in json.loads(path.read_text(encoding="utf-8"))]
        return None


def _without_secrets(value: Any) -> Any:
    """Plain data whose addresses have no user, password or query: a report is passed on."""
    if isinstance(value, Mapping):
        return {key: _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    return shown(value) if isinstance(value, str) else value


class ReportHook(Hook):
    """Writes the run's reports after every evaluation of a training, so that a long one can be looked into."""

    optional = True

    def __init__(self, report: RunReport):
        self.report = report

    def before_train(self, trainer: Training) -> None:
        """A resumed training has results whose detections are not here."""
        self._seen = trainer.results

    def on_metrics(self, trainer: Training, line: Line) -> None:
        """Of an evaluation: its results are the trainer's by then, and its line is in ``metrics.jsonl``."""
        if trainer.results is not self._seen:
            self._seen = trainer.results
            weights = f"weights of step {trainer.finished}"
            self.report.write(trainer.results, weights, list(trainer.weight_sets), trained=True)
