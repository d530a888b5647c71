"""Going on with a run where its last checkpoint stands."""

import logging
from typing import Any, Protocol

from torch import nn

from detkit.checkpoint.checkpointer import Checkpointer
from detkit.checkpoint.load import load_weights
from detkit.checkpoint.reading import read_checkpoint
from detkit.registry import DataError
from detkit.utils.distributed import unwrap

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
    """Loads the last checkpoint of the run into model and trainer; gives the number of finished steps.

    0, with a line in the log, where there is none yet. A run that has already reached ``max_iter`` says so.

    Raises:
        DataError: the checkpoint cannot be read, holds weights without a training state, or is of another model or
            optimizer: names, shapes, class names or parameter groups differ.
    """
    path = checkpointer.latest()
    if path is None:
        logger.info("%s has no checkpoint yet: starting from the beginning", checkpointer.output_dir)
        return 0
    checkpoint = read_checkpoint(path)
    if checkpoint.trainer is None:
        raise DataError(f"{path}: holds weights only, no training state; start from it with train.init_weights")
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
    if trainer.finished >= trainer.max_iter:
        logger.info("%s is finished at %d steps; raise solver.max_iter to go on", path, trainer.finished)
    else:
        logger.info("resumed %s: %d of %d steps are done", path, trainer.finished, trainer.max_iter)
    return trainer.finished
