"""Checkpointer: the checkpoints of one run's folder."""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detkit.checkpoint.files import write_torch
from detkit.checkpoint.reading import Checkpoint
from detkit.checkpoint.sharded import write_sharded
from detkit.utils import atomic_write, distributed
from detkit.utils.sharding import full_tensors, is_sharded

logger = logging.getLogger(__name__)

_TRAINING = re.compile(r"checkpoint_\d+\.(pth|sharded|parts)")
"""``.parts`` is of an earlier detkit; a resume refuses it and says what to do."""


class Checkpointer:
    """Writes, finds and prunes the checkpoints of a run.

    A checkpoint is a mapping that ``torch.load(..., weights_only=True)`` reads: ``model`` (state dict),
    ``class_names`` (list of str), ``category_ids`` (list of int) and ``keypoints`` (as in a category of COCO's files)
    where they are known, ``config`` (plain data), ``detkit_version`` and, in training checkpoints, ``trainer``.

    fvcore's Checkpointer is not used because it writes in place and pickles whatever it is given: a run that is
    killed while writing would be left with half a file that its ``last_checkpoint`` names. Here a file is complete or
    not there, and it is named as the last one only after that. Only rank 0 writes one file; all ranks may call.

    Args:
        output_dir: the run's folder, made when the first file is written.
        keep: how many training checkpoints stay, the newest ones; None keeps all.
        sharded: training checkpoints of sharded weights are folders, ``<name>.sharded``, to which each process writes
            its local shards (see ``write_sharded``); weights without a training state are always one file.

    Raises:
        ValueError: ``keep`` is below 1.
    """

    def __init__(self, output_dir: str | os.PathLike[str], *, keep: int | None = 3, sharded: bool = False):
        if keep is not None and keep < 1:
            raise ValueError(f"keep: expected at least 1 checkpoint (or None, which keeps all), got {keep}")
        self.output_dir, self.keep, self.sharded = Path(output_dir), keep, sharded

    def save(
        self,
        name: str,
        model: nn.Module,
        *,
        trainer_state: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Path:
        """Writes ``name.pth`` (or ``name.sharded``, see ``sharded``) and returns its path. All ranks must call it.

        With a ``trainer_state`` it becomes the checkpoint that a resume finds, and older ones are pruned.

        Args:
            name: e.g. ``"checkpoint_0000999"`` or ``"model_final"``.
            model: may be wrapped; the weights of the model itself are written.
            trainer_state: tensors and plain data.
            config: the run's complete config as plain data.
            class_names: None takes the model's own.

        Raises:
            OSError: it cannot be written; names the file, and the space that it needs and that there is. What was
                written before is untouched.
        """
        model = distributed.unwrap(model)
        sharded = self.sharded and trainer_state is not None and is_sharded(model)
        path = self.output_dir / f"{name}.{'sharded' if sharded else 'pth'}"
        content = _content(model, trainer_state, config, class_names)
        content = content if sharded else full_tensors(content)
        try:
            if sharded:
                write_sharded(content, path)
            elif distributed.is_main():
                write_torch(content, path)
        except OSError as error:
            raise OSError(error.errno, f"{path}: {_no_space(error, content, path.parent)}") from error
        if not distributed.is_main():
            return path
        if trainer_state is not None:
            self._note_last(path)
            self._prune(path)
        logger.info("wrote %s", path)
        return path

    def latest(self) -> Path | None:
        """The checkpoint that was written last, or None where the folder has none."""
        return next(iter(self.newest_first()), None)

    def newest_first(self) -> list[Path]:
        """The training checkpoints in the order in which a resume tries them: the one named as the last comes first."""
        found = self._training_checkpoints()[::-1]
        if not self._last.is_file():
            return found
        text = self._last.read_text(encoding="utf-8", errors="replace").strip()
        named = next((path for path in self.output_dir.iterdir() if path.name == text and path.exists()), None)
        if named is None:
            if found:
                words = f"'{text[:80]}'".replace("\n", " ") if text else "nothing"
                logger.warning("%s names %s, which is gone; the newest is %s", self._last, words, found[0].name)
            return found
        return [named, *(path for path in found if path != named)]

    @property
    def _last(self) -> Path:
        return self.output_dir / "last_checkpoint"

    def _note_last(self, path: Path) -> None:
        try:
            with atomic_write(self._last, "w") as file:
                file.write(f"{path.name}\n")
        except IsADirectoryError:  # which is no file of the run; without it a resume goes by the files' times
            logger.warning("%s is a folder, so it cannot say which checkpoint is the last one", self._last)

    def _training_checkpoints(self) -> list[Path]:
        """Oldest first, by the time they were written: the folder may hold higher numbers of an earlier run."""
        files = [p for p in self.output_dir.glob("checkpoint_*.*") if _TRAINING.fullmatch(p.name) and p.exists()]
        return sorted(files, key=lambda p: (p.stat().st_mtime_ns, p.name))

    def _prune(self, newest: Path) -> None:
        if self.keep is None:
            return
        others = [p for p in self._training_checkpoints() if p != newest]
        for path in others[: max(len(others) - (self.keep - 1), 0)]:
            try:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            except OSError as error:  # which is no reason to end a training; the next checkpoint tries again
                logger.warning("%s: is not kept any more and cannot be removed (%s)", path, error)


def _content(
    model: nn.Module,
    trainer_state: Mapping[str, Any] | None,
    config: Mapping[str, Any] | None,
    class_names: Sequence[str] | None,
) -> dict[str, Any]:
    """What the file holds; see ``Checkpointer.save``."""
    names = getattr(model, "class_names", None) if class_names is None else class_names
    ids = getattr(model, "category_ids", None)
    return Checkpoint(
        model=model.state_dict(),
        class_names=None if names is None else tuple(map(str, names)),
        category_ids=None if ids is None else tuple(map(int, ids)),
        keypoints=getattr(model, "keypoints", None),
        config=None if config is None else dict(config),
        trainer=None if trainer_state is None else dict(trainer_state),
    ).content()


def _no_space(error: OSError, content: Mapping[str, Any], folder: Path) -> str:
    words = f"could not be written ({error.strerror or error}). It needs about {_size(content) / 1e6:,.1f} MB"
    with contextlib.suppress(OSError):
        words += f"; {folder} has {shutil.disk_usage(folder).free / 1e6:,.1f} MB free"
    return f"{words}. What was written before is complete: make space (train.checkpoint_keep: how many stay), --resume"


def _size(content: Any) -> int:
    """Bytes of the tensors in nested mappings and lists."""
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    values = content.values() if isinstance(content, Mapping) else content if isinstance(content, list | tuple) else ()
    return sum(_size(value) for value in values)
