"""The start of a run: its folder, its log, its seeds, and checks of what it starts from."""

import contextlib
import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from detkit.config import to_yaml
from detkit.config.user_file import CODE, copied_code
from detkit.data.workers import check_guarded
from detkit.experiment.experiment import Experiment
from detkit.modeling import MetaArch
from detkit.registry import ConfigError, options
from detkit.utils import (
    atomic_write,
    distributed,
    environment_report,
    remove_leftovers,
    seed_everything,
    setup_logging,
)
from detkit.utils.run_folder import EVALUATION, begin_run, holding, mark_resumed, run_file

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def owned(folder: str | Path) -> Iterator[None]:
    """Keeps other runs out of a run's folder while the block runs; rank 0 holds it for all. All ranks must call it.

    Raises:
        ConfigError: another process holds it, or it cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"train.output_dir: '{folder}' cannot be a folder ({error.strerror}); give another train.output_dir"
        ) from error
    with holding(Path(folder)) if distributed.is_main() else contextlib.nullcontext("") as holder:
        holder = distributed.all_gather_object(holder)[0]
        if holder:
            words = f"train.output_dir: {folder} is in use by {holder}; two runs in one folder would mix."
            if not distributed.launched() and any(name in os.environ for name in _LAUNCHERS):
                words += " Processes of one run are started by torchrun or --num-processes."
            raise ConfigError(f"{words} Wait for its end, or give another train.output_dir")
        yield


def check_launch() -> None:
    """Raises ConfigError where this process is one of several but does not know, or cannot be, which.

    It would train alone, or wait for the others for ever. So would a loader process that imports the run's script.
    """
    check_guarded()
    given = {name: os.environ[name] for name in distributed.VARIABLES if name in os.environ}
    fix = "torchrun and --num-processes set all of them; without WORLD_SIZE this process trains alone"
    missing = [name for name in distributed.VARIABLES if name not in given]
    if missing and given.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(f"WORLD_SIZE is '{given['WORLD_SIZE']}', but there is no {', '.join(missing)}: {fix}")
    odd = [name for name in given if name != "MASTER_ADDR" and not given[name].isdecimal()]
    if not missing and (odd or int(given["RANK"]) >= int(given["WORLD_SIZE"])):
        name = odd[0] if odd else "RANK"
        what = "a number" if odd else f"less than WORLD_SIZE, {given['WORLD_SIZE']}"
        raise ConfigError(f"{name}: expected {what}, got '{given[name]}'; {fix}")


_LAUNCHERS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""Variables of processes that something has started as one of several."""


def start_run(experiment: Experiment) -> Path:
    """Makes the run's folder, sends the log there and to the console, seeds everything. Returns the folder.

    Raises:
        ConfigError: the processes of the run have different configs.
    """
    folder = Path(experiment.train.output_dir)
    setup_logging(folder)
    seed_everything(experiment.train.seed, deterministic=experiment.train.deterministic)
    logger.debug("environment\n%s", environment_report())
    if experiment.notes:
        logger.info("%s", experiment.notes)
    check_alike("config", to_yaml(experiment.tree))
    return folder


def check_alike(what: str, words: str) -> None:
    """Raises ConfigError unless ``words``, which describe this process's config or data, are the same in all processes.

    Processes with different ones would wait for one another for ever, or learn something else than they seem to. All
    must call it.
    """
    gathered = distributed.all_gather_object(words)
    for rank, other in enumerate(gathered):
        if other != gathered[0]:
            lines = itertools.zip_longest(gathered[0].splitlines(), other.splitlines(), fillvalue="nothing")
            ours, theirs = next(pair for pair in lines if pair[0] != pair[1])
            raise ConfigError(
                f"{what}: rank {rank} has '{theirs.strip()}' where rank 0 has '{ours.strip()}'. Start every process"
                " with the same config and overrides, and give every machine the same files"
            )


def validate_datasets(experiment: Experiment) -> None:
    """Opens both datasets, logs what is in them, and compares their classes.

    Raises:
        ConfigError: the processes of the run have different data.
        DataError: a dataset cannot be read, or the test dataset has other classes than the training dataset.
    """
    data = experiment.data
    logger.info("training data\n%s", data.train_set.summary())
    logger.info("test data\n%s", data.test_set.summary())
    check_alike("data", f"{data.train_set.summary()}\n{data.test_set.summary()}")
    data.check_classes(data.train_set.class_names)
    if "semantic_names" in options(experiment.model.cls):
        data.check_semantic_names(experiment.model.kwargs.get("semantic_names"))


def is_restarted(folder: Path) -> bool:
    """Whether the launcher that began the run in ``folder`` has started these processes again after one had died."""
    claim = folder / "launched_by"
    ours = distributed.launched() and claim.is_file() and claim.read_text(encoding="utf-8") == distributed.launch_id()
    again: bool = distributed.all_gather_object(ours)[0]  # rank 0's word: another machine's folder may lag behind
    if again:
        logger.info("started again by the launcher: going on from the last checkpoint")
    return again


def init_output_dir(experiment: Experiment, *, fresh: bool) -> None:
    """Writes the complete config, see ``run_file``; for when all checks have passed and training can begin.

    Files that killed processes left half written are removed, and the evaluation of weights that will be trained on.

    Args:
        experiment: whose folder it is.
        fresh: a training from the beginning; what an earlier run left in the folder is set aside, so that nothing of
            it is lost or taken for the new run's. What is the user's stays.

    Raises:
        ConfigError: the run would write over files of the user's.
    """
    folder = Path(experiment.train.output_dir)
    in_the_way = begin_run(folder) if fresh and distributed.is_main() else ""
    in_the_way = distributed.all_gather_object(in_the_way)[0]
    if in_the_way:
        raise ConfigError(
            f"train.output_dir: {folder} has {in_the_way}, not of a run, which this one would write over."
            " Move or rename that, or give another train.output_dir"
        )
    if not distributed.is_main():
        return
    left = remove_leftovers(folder)
    if left:
        logger.info("removed %d files that a killed process had half written: %s", len(left), left[0].name)
    if not fresh:
        mark_resumed(folder)
        for name in (*EVALUATION, run_file(folder, "report.html").name):
            (folder / name).unlink(missing_ok=True)
    if distributed.launched():
        (folder / "launched_by").write_text(distributed.launch_id(), encoding="utf-8")
    _keep_code(experiment, folder)
    with atomic_write(run_file(folder, "config.yaml"), "w") as file:
        file.write(to_yaml(experiment.tree))


def _keep_code(experiment: Experiment, folder: Path) -> None:
    """Copies the code that the config imports into ``folder``; the run's config and checkpoints name it there."""
    names, files = copied_code(experiment.tree.get("imports", ()))
    for place, text in files.items():
        with atomic_write(folder / CODE / place) as file:
            file.write(text)
    if names:
        experiment.tree["imports"] = [f"{CODE}/{name}" if name.endswith(".py") else name for name in names]


def finished_message(experiment: Experiment, stop_reason: str | None) -> str:
    """The message of a resume of a run that is at its end: that it is, and what makes it go on.

    Args:
        experiment: the run's.
        stop_reason: the trainer's.
    """
    folder, solver = experiment.train.output_dir, experiment.solver
    if stop_reason is not None:
        return f"The run in {folder} stopped early: {stop_reason}"
    what, now = ("max_iter", solver.max_iter) if solver.max_iter is not None else ("epochs", solver.epochs)
    return f"The run in {folder} is finished. To train longer, raise solver.{what}, which is {now} now, and --resume"


def warn_random_frozen(experiment: Experiment, model: MetaArch) -> None:
    """Warns where layers are frozen at random values, because the config names no weights to start from."""
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if frozen and not experiment.names_weights:
        logger.warning(
            "%s parameters are frozen at their random start: give train.init_weights or the backbone's own 'weights', "
            "or train from scratch with model.backbone.norm=BN model.backbone.freeze_at=0",
            f"{frozen:,}",
        )
