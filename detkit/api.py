"""detkit from Python: trainings and evaluations as functions, which leave the process as it was, and their runs.

``detkit.train`` and the others of ``__all__`` are these; ``import detkit`` alone loads none of it.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any

from detkit.config import assignment
from detkit.data import open_dataset
from detkit.engine import Interrupted, Interruption
from detkit.evaluating import evaluate_weights, evaluation_of
from detkit.experiment import Experiment, OwnData, load_experiment, own_data, torch_device
from detkit.experiment.run import check_launch, owned
from detkit.inference import Precision
from detkit.predictor import Predictor
from detkit.registry import ConfigError, DataError
from detkit.training import train as train_experiment
from detkit.utils import distributed
from detkit.utils.logging import logging_restored
from detkit.utils.run_folder import run_file
from detkit.utils.seed import random_state_restored

__all__ = ["Predictor", "Run", "evaluate", "load_experiment", "open_dataset", "train"]

_ONE = threading.Lock()
Overrides = str | Sequence[str] | Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Run:
    """A training's folder, which may be given wherever a config or a run is asked for.

    Args:
        path: the folder.
        trusted: whether the code that its config lists under ``imports`` may run, as it may in a run that this
            process has trained.
    """

    path: Path
    trusted: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path).expanduser().absolute())

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def results(self) -> dict[str, Any]:
        """What the last evaluation gave, as in ``evaluation.json``: ``results["box"]["AP"]``.

        Raises DataError where nothing has been evaluated, or the file is damaged.
        """
        file = self.path / "evaluation.json"
        if not file.is_file():
            raise DataError(f"{file}: is missing: nothing has been evaluated; detkit.evaluate({str(self.path)!r}) does")
        try:
            results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            fix = f"detkit.evaluate({str(self.path)!r}) writes it again"
            raise DataError(f"{file}: is damaged ({error}); {fix}") from None
        return results

    @property
    def report(self) -> Path:
        """The page on the last evaluation; in a notebook ``IPython.display.HTML(run.report.read_text())`` shows it."""
        return run_file(self.path, "report.html")

    def predictor(self, **options: Any) -> Predictor:
        """The trained model; the options are those of ``Predictor.from_run``."""
        return Predictor.from_run(self.path, **{"trust_imports": self.trusted, **options})


def train(
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    data: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    format: str | None = None,
    val_fraction: float | None = None,
    classes: str | Sequence[str] | None = None,
    weights: str | os.PathLike[str] | EllipsisType | None = ...,
    overrides: Overrides = (),
    output_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **more: Any,
) -> Run:
    """Trains and evaluates, as ``detkit train`` does.

    Args:
        config: the name of one of detkit's configs, a YAML, a run to go on with or to repeat, or a config as data; None
            is a small Mask R-CNN or Faster R-CNN for ``data``.
        data: a folder of data in any format that is read here, see ``detkit.experiment.own_data``; None is what the
            config says. (A mapping holds overrides, as ``solver={...}`` does.)
        format: the folder's, where it is not recognised: ``"yolo"``, ``"voc"``, ...
        val_fraction: the share of a folder without parts that is evaluated on; None is 0.2.
        classes: the folder's classes to take; None for all.
        weights: what the training starts from; None (or ``"none"``) for none. Left out it is what the config says.
        overrides: changes to the config: texts ``key.path=value``, or a mapping, also of mappings.
        output_dir: the run's folder. None is a new one, so nothing is written over: what the config says, with a number
            behind it where that is taken. (With ``resume``: what the config says.)
        resume: goes on from the last checkpoint in the run's folder.
        **more: overrides by their first words, such as ``solver={"max_iter": 100}``.

    Raises:
        ConfigError: something is wrong with the config, with its place and the fix.
        DataError: something is wrong with data or weights.
        RuntimeError: another training or evaluation runs in this process.
        KeyboardInterrupt: somebody asked the training to stop (Ctrl-C, a notebook's button); it has saved, and
            ``detkit.train(folder, resume=True)``, with the run's folder, goes on.
    """
    changes = _changes(overrides, more, data, output_dir)
    if weights is not ...:
        changes.append(assignment("train.init_weights", None if weights == "none" else weights))
    if data is None or isinstance(data, Mapping):
        if config is None:
            raise ConfigError("train: give a config, or a folder of your own as data")
        of_folder = {"format": format, "val_fraction": val_fraction, "classes": classes}
        if given := [name for name, value in of_folder.items() if value is not None]:
            raise ConfigError(f"train: {given[0]} goes with a folder as data")
        prepared = OwnData(_source(config), changes)
    elif resume:
        raise ConfigError("train: data begin a training; a run knows its own: give the run, and resume=True")
    else:
        options: Any = {"format": format, "val_fraction": val_fraction, "class_names": classes}
        prepared = own_data(data, None if config is None else _source(config), changes, **options)
    again = "the training has stopped; detkit.train({!r}, resume=True) goes on from here"
    with _running(prepared, again, new_folder=not resume) as (exp, interruption):
        train_experiment(exp, resume, interruption)
    return Run(Path(exp.train.output_dir), trusted=True)


def evaluate(
    config: str | os.PathLike[str] | Mapping[str, Any],
    *,
    data: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    format: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    overrides: Overrides = (),
    output_dir: str | os.PathLike[str] | None = None,
    precision: Precision | None = None,
    compile: bool = False,
    engine: str | None = None,
    trust_imports: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Evaluates a run, or weights, as ``detkit evaluate`` does. Returns the metrics: ``results["box"]["AP"]``.

    Args:
        config: a run or its folder, which gets the files; or a config, see ``train``.
        data: see ``train``; its validation part is evaluated on, or all of a folder that has none. The files go to
            ``on_<its name>`` in the run's folder, so that the run keeps its own results.
        format: see ``train``.
        weights: what is evaluated, a checkpoint or a program; None is the run's ``model_final.pth``.
        overrides: see ``train``.
        output_dir: see ``train``.
        precision: of a faster copy that is evaluated instead; see ``detkit.inference``.
        compile: whether the copy's static parts go through ``torch.compile``.
        engine: what runs the model; see ``Predictor``.
        trust_imports: whether the code that the config lists under ``imports`` may run, as it may in a ``Run`` that
            this process has trained.
        **more: see ``train``.

    Raises:
        ConfigError, DataError, KeyboardInterrupt: see ``train``.
    """
    changes = _changes(overrides, more, data, output_dir)
    source = _source(config)
    new = weights is not None and (isinstance(source, Mapping) or not source.is_dir())
    folder = None if isinstance(data, Mapping) else data
    if format is not None and folder is None:
        raise ConfigError("evaluate: format goes with a folder as data")
    options: Any = {"data": folder, "format": format, "weights": weights}
    trusted = trust_imports or (isinstance(config, Run) and config.trusted)
    prepared, weights = evaluation_of(source, changes, **options, trust_imports=trusted)
    stopped = "the evaluation has stopped"
    with _running(prepared, stopped, new_folder=new) as (exp, interruption), interruption.at_once():
        evaluate_weights(exp, weights, precision, compile, engine=engine)
    return Run(Path(exp.train.output_dir)).results


def _source(config: Any) -> Any:
    if isinstance(config, Mapping):
        return config
    if not isinstance(config, str | os.PathLike):
        raise ConfigError(f"config: expected a name, a path, a run or a mapping, got {config!r:.100}")
    return Path(config).expanduser()


@contextlib.contextmanager
def _running(prepared: OwnData, stopped: str, *, new_folder: bool) -> Iterator[tuple[Experiment, Interruption]]:
    """The experiment, in a folder that is this run's; the process is as it was when the block ends.

    ``stopped`` is what a Ctrl-C ends with, ``{!r}`` in it the folder.
    """
    check_launch()
    exp, interruption = prepared.experiment(), Interruption()
    with contextlib.ExitStack() as stack:
        if not _ONE.acquire(blocking=False):  # two would share log, random numbers and torch's settings
            raise RuntimeError("a training or evaluation runs in this process; wait for its end, or take two processes")
        stack.callback(_ONE.release)
        stack.enter_context(interruption.listening())
        stack.enter_context(random_state_restored())
        stack.enter_context(distributed.process_group(torch_device(exp.train.device)))
        if new_folder and not any(text.startswith("train.output_dir=") for text in prepared.overrides):
            folder = stack.enter_context(_new_folder(Path(exp.train.output_dir)))
            exp = prepared.experiment(assignment("train.output_dir", folder))
        stack.enter_context(logging_restored())
        stack.enter_context(owned(exp.train.output_dir))
        try:
            yield exp, interruption
        except Interrupted as stop:
            if stop.number != signal.SIGINT:
                raise SystemExit(stop.exit_code) from None
            raise KeyboardInterrupt(stopped.format(exp.train.output_dir)) from None


@contextlib.contextmanager
def _new_folder(wanted: Path) -> Iterator[Path]:
    """Makes a folder that there was none of; it is removed where nothing but the log was written, by an error."""
    folder = wanted
    for number in itertools.count(2) if distributed.is_main() else ():
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            folder = wanted.with_name(f"{wanted.name}_{number}")
    folder = distributed.all_gather_object(folder)[0]
    try:
        yield folder
    except BaseException:
        if distributed.is_main() and {file.name for file in folder.iterdir()} <= {"log.txt"}:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _changes(
    overrides: Overrides, more: Mapping[str, Any], data: Any, output_dir: str | os.PathLike[str] | None
) -> list[str]:
    """Overrides in all their forms as texts."""
    if isinstance(data, Mapping):
        more, data = {**more, "data": data}, None
    texts = [overrides] if isinstance(overrides, str) else () if overrides is None else overrides
    texts = _flat(texts, "") if isinstance(texts, Mapping) else texts
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"overrides: expected texts 'key.path=value', or a mapping, got {overrides!r:.100}")
    texts = [*texts, *_flat(more, "")]
    return texts + ([] if output_dir is None else [assignment("train.output_dir", output_dir)])


def _flat(values: Mapping[str, Any], above: str) -> list[str]:
    texts = []
    for key, value in values.items():
        nested = isinstance(value, Mapping) and len(value) > 0
        texts += _flat(value, f"{above}{key}.") if nested else [assignment(f"{above}{key}", value, literal=False)]
    return texts
