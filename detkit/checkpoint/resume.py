"""Going on with a run from its last checkpoint."""

import logging
from typing import Any, Protocol

from torch import nn

import detkit
from detkit.checkpoint.checkpointer import Checkpointer
from detkit.checkpoint.load import load_weights
from detkit.checkpoint.reading import Checkpoint, read_checkpoint
from detkit.registry import DataError
from detkit.utils.distributed import all_gather_object, is_main, unwrap

logger = logging.getLogger(__name__)


class Resumable(Protocol):
    """What ``resume`` needs of a trainer."""

    max_iter: int

    @property
    def finished(self) -> int:
        """How many steps are done."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state that its ``state_dict`` gave."""
        ...


def resume(checkpointer: Checkpointer, model: nn.Module, trainer: Resumable) -> int:
    """Loads the last readable checkpoint of the run into model and trainer; gives the number of finished steps.

    A checkpoint that is damaged is passed over with a warning. 0, with a line in the log, where there is none yet.
    All ranks must call it.

    Raises:
        DataError: no checkpoint can be read, or the one taken holds weights without a training state, or is of another
            model or optimizer: names, shapes, class names or parameter groups differ.
    """
    checkpoint = newest_readable(checkpointer)
    if checkpoint is None:
        logger.info("%s has no checkpoint yet: starting from the beginning", checkpointer.output_dir)
        return 0
    path = checkpoint.source
    if checkpoint.trainer is None:
        raise DataError(f"{path}: holds weights only, no training state; start from it with train.init_weights")
    missing = [key for key in ("pending", "ranks") if key not in checkpoint.trainer]
    if missing:
        raise DataError(
            f"{path}: was written by an older detkit, whose training states this one cannot go on with;"
            " start a new run from its weights with train.init_weights"
        )
    named = (((checkpoint.config or {}).get("solver") or {}).get("optimizer") or {}).get("name")
    checkpoint.trainer.setdefault("owner", {"optimizer": named})  # of an earlier detkit, whose config says it
    ours, theirs = getattr(unwrap(model), "class_names", None), checkpoint.class_names
    try:
        if ours is not None and theirs is not None and tuple(ours) != theirs:
            raise ValueError(f"Its classes are {list(theirs)}, the model's are {list(ours)}")
        load_weights(model, checkpoint, strict=True)
        trainer.load_state_dict(checkpoint.trainer)
    except ValueError as error:
        raise DataError(
            f"{path}: cannot be resumed, because the model or the optimizer is not the one that it was written for."
            f" Undo the change of the config, or start a new run from it with train.init_weights. {error}"
        ) from error
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise DataError(
            f"{path}: its training state is not one of detkit {detkit.__version__} ({type(error).__name__}: {error})."
            " Resume with the detkit that wrote it, or start a new run from its weights with train.init_weights"
        ) from error
    logger.info("resumed %s: %d of %d steps are done", path, trainer.finished, trainer.max_iter)
    return trainer.finished


def newest_readable(checkpointer: Checkpointer) -> Checkpoint | None:
    """The newest training checkpoint that can be read, the same for all ranks; None where there is none at all.

    Raises:
        DataError: there are some, and none can be read; or this process does not see the one that rank 0 reads.
    """
    found, problem = _search(checkpointer) if is_main() else (None, "")
    path, problem = all_gather_object((None if found is None else found.source, problem))[0]
    if problem:
        raise DataError(problem)
    return found if found is not None or path is None else read_checkpoint(path)


def _search(checkpointer: Checkpointer) -> tuple[Checkpoint | None, str]:
    problems = []
    for path in checkpointer.newest_first():
        try:
            checkpoint = read_checkpoint(path)
        except DataError as error:
            logger.warning("passed over a damaged checkpoint: %s", error)
            problems.append(str(error))
            continue
        return checkpoint, ""
    if not problems:
        return None, ""
    return None, f"none of the run's {len(problems)} checkpoints can be read; remove them to start again. {problems[0]}"
