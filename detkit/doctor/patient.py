"""Patient: what the doctor looks at. It is put together as far as it goes; what does not go is a finding itself."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from detkit.building import built
from detkit.checkpoint import Checkpoint, read_checkpoint
from detkit.config import ConfigError, Recipe
from detkit.data import Dataset
from detkit.data.faults import Fault
from detkit.doctor.contents import Contents, collecting
from detkit.doctor.interfaces import Finding
from detkit.experiment import Experiment
from detkit.modeling import MetaArch
from detkit.registry import DataError
from detkit.utils.distributed import unwrap

T = TypeVar("T")


class Patient:
    """An experiment with its data, model and weights, each None where it cannot be had.

    Args:
        experiment: the checked config.
        quick: no image is read, and only samples of what takes time are looked at.
        weights: the checkpoint to compare the model with; None: ``train.init_weights``.
        resume: a resume is meant, so the run's own last checkpoint counts.
        num_processes: how many will train.
        bar: whether progress is shown.

    Attributes:
        train, test: the datasets.
        model: on the CPU, with the training set's classes.
        checkpoint: what ``weights`` holds.
        findings: why something of these is None.
        faults: what is wrong in the files of the data, where they were read to the end for that.
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
        self.train: Contents | None = None
        self.test: Contents | None = None
        self.model: MetaArch | None = None
        self.checkpoint: Checkpoint | None = None
        self.findings: list[Finding] = []
        self.faults: list[Fault] = []
        self.histogram: str | Path | None = None
        self.histogram_drawn = False

    def examine_files(self) -> "Patient":
        """Reads data and weights and builds the model; all faults of the data's files are collected."""
        return self.read_data().build()

    def read_data(self) -> "Patient":
        """Reads the datasets, with what is sound in them."""
        data = self.experiment.data
        self.train = self._read("data.train_dataset", data.train_dataset)
        if data.test_dataset == data.train_dataset and self.train is not None:
            self.test = Contents("data.test_dataset", self.train.dataset)
        else:
            self.test = self._read("data.test_dataset", data.test_dataset)
        return self

    def build(self) -> "Patient":
        """Reads the weights and builds the model, for the classes of the training set or else of the weights."""
        names = self.train.class_names if self.train else None
        if self.weights is not None:
            weights = self.weights
            self.checkpoint = self._attempt("weights", lambda: read_checkpoint(weights))
            names = names or (self.checkpoint.class_names if self.checkpoint else None)
        if names is not None:
            known = names
            self.model = self._attempt("model", lambda: self.experiment.build_model_for(known))
        return self

    def take(self, model: MetaArch) -> "Patient":
        """Takes what a run has read and built already."""
        data = self.experiment.data
        self.train = Contents("data.train_dataset", data.train_set)
        self.test = Contents("data.test_dataset", data.test_set)
        self.model = unwrap(model)  # type: ignore[assignment]
        return self

    def _read(self, where: str, recipe: Recipe[Dataset]) -> Contents | None:
        lenient = collecting(recipe, self.faults.append)
        return self._attempt(where, lambda: Contents(where, built(where, lenient)))

    def _attempt(self, where: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except (ConfigError, DataError, OSError) as error:
            fix = "the message says the way out; checks that need it were left out"
            self.findings.append(Finding("error", where, str(error), fix))
            return None

    @property
    def parts(self) -> list[Contents]:
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
