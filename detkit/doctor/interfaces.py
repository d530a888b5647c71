"""The doctor's roles: CheckContext, what is checked; Check, which checks it; Finding, what it finds.

A check of your own is a class in a file that the config names under ``imports:``.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from detkit.checkpoint import Checkpoint, read_checkpoint
from detkit.config import ConfigError, Recipe, built
from detkit.data import Dataset
from detkit.data.issues import Issue
from detkit.doctor.stats import DatasetStats, with_report
from detkit.experiment import Experiment
from detkit.modeling import MetaArch
from detkit.registry import DataError, Registry
from detkit.utils.distributed import unwrap

T = TypeVar("T")
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""An error ends a run or makes its result worthless; a warning is likely a mistake; a note is worth knowing."""


MOST_EXAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Finding:
    """One row of the doctor's table.

    Args:
        severity: how bad it is; see ``SEVERITIES``.
        where: the file, or the path in the config.
        what: what is wrong.
        fix: what to do.
        examples: where it is, each by file, annotation id or name; the first 1,000 are kept, the table shows three.
        count: how many there are; 0: as many as examples, at least 1. Given, no more examples are made than are kept.
        detail: lines that belong below the table, such as a histogram.
        check: the check's name; the doctor fills it in.
    """

    severity: Severity
    where: str
    what: str
    fix: str
    examples: Iterable[str] = ()
    count: int = 0
    detail: str = ""
    check: str = ""

    def __post_init__(self) -> None:
        examples = self.examples if self.count else tuple(self.examples)
        object.__setattr__(self, "count", self.count or max(1, len(examples)))  # type: ignore[arg-type]
        object.__setattr__(self, "examples", tuple(itertools.islice(examples, MOST_EXAMPLES)))


class CheckContext:
    """An experiment with its data, model and weights, each None where it cannot be had.

    Args:
        experiment: the checked config.
        quick: no image is read, and of what takes time only samples are checked.
        weights: the checkpoint to compare the model with; None: ``train.init_weights``.
        resume: a resume is meant, so the run's own last checkpoint counts.
        num_processes: how many will train.
        bar: whether progress is shown.

    Attributes:
        train, test: the datasets.
        model: on the CPU, with the training set's classes.
        checkpoint: what ``weights`` holds.
        findings: why something of these is None.
        issues: what is wrong in the rows of the data, where ``load_data`` read all of them.
        histogram: a PNG to write the histogram of objects and anchors to.
        histogram_drawn: whether that has been done.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        quick: bool = False,
        weights: str | None = None,
        resume: bool = False,
        num_processes: int = 1,
        bar: bool = False,
    ):
        self.experiment, self.quick, self.resume = experiment, quick, resume
        self.num_processes, self.bar = num_processes, bar
        self.weights = weights or experiment.train.init_weights
        self.train: DatasetStats | None = None
        self.test: DatasetStats | None = None
        self.model: MetaArch | None = None
        self.checkpoint: Checkpoint | None = None
        self.findings: list[Finding] = []
        self.issues: list[Issue] = []
        self.histogram: str | Path | None = None
        self.histogram_drawn = False

    def load(self) -> "CheckContext":
        """Reads data and weights and builds the model; all issues of the data are collected."""
        return self.load_data().build_model()

    def load_data(self) -> "CheckContext":
        """Reads the datasets, with what can be used of them."""
        data = self.experiment.data
        self.train = self._load("data.train_dataset", data.train_dataset)
        if data.test_dataset == data.train_dataset and self.train is not None:
            self.test = DatasetStats("data.test_dataset", self.train.dataset)
        else:
            self.test = self._load("data.test_dataset", data.test_dataset)
        return self

    def build_model(self) -> "CheckContext":
        """Reads the weights and builds the model, for the classes of the training set or else of the weights."""
        names = self.train.class_names if self.train else None
        if self.weights is not None:
            weights = self.weights
            self.checkpoint = self._attempt("weights", lambda: read_checkpoint(weights))
            names = names or (self.checkpoint.class_names if self.checkpoint else None)
        points = None if self.checkpoint is None else self.checkpoint.keypoints
        points = self.train.dataset.keypoint_spec if self.train else points
        if names is not None:
            known, build = names, self.experiment.build_model
            self.model = self._attempt("model", lambda: build(class_names=known, keypoints=points))
        return self

    def use(self, model: MetaArch) -> "CheckContext":
        """Uses the data and the model of a run that has them already."""
        data = self.experiment.data
        self.train = DatasetStats("data.train_dataset", data.train_set)
        self.test = DatasetStats("data.test_dataset", data.test_set)
        self.model = unwrap(model)  # type: ignore[assignment]
        return self

    def _load(self, where: str, recipe: Recipe[Dataset]) -> DatasetStats | None:
        lenient = with_report(recipe, self.issues.append)
        return self._attempt(where, lambda: DatasetStats(where, built(where, lenient)))

    def _attempt(self, where: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except (ConfigError, DataError, OSError) as error:
            fix = "the message says what to do; checks that need it were left out"
            self.findings.append(Finding("error", where, str(error), fix))
            return None

    @property
    def parts(self) -> list[DatasetStats]:
        """The datasets that training and test set are put together from, each once."""
        found = [part for side in (self.train, self.test) if side is not None for part in side.parts]
        return list({id(part.dataset): part for part in reversed(found)}.values())[::-1]

    @property
    def max_iter(self) -> int | None:
        """Training steps; None where the training set that it depends on cannot be read."""
        solver = self.experiment.solver
        if solver.max_iter is not None:
            return solver.max_iter
        if self.train is None:
            return None
        return math.ceil((solver.epochs or 0) * len(self.train) / self.experiment.images_per_step)


class Check:
    """Looks for mistakes of one kind. All registered checks are run, so one of your own needs no line in the config.

    Attributes:
        needs: attributes of the context that must not be None (``train``, ``test``, ``model``, ``checkpoint``); where
            one is, a finding says why, and the check is left out.
        quick: whether it is run at the start of training too: it reads no images and takes no noticeable time.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    quick: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        """What is wrong."""
        raise NotImplementedError


CHECKS: Registry[Check] = Registry("check", Check)
