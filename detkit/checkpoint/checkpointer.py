"""Checkpointer: the checkpoints of one run's folder."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import detkit
from detkit.utils import atomic_write, distributed

logger = logging.getLogger(__name__)

_TRAINING = re.compile(r"checkpoint_\d+\.pth")


class Checkpointer:
    """Writes, finds and prunes the checkpoints of a run.

    A checkpoint is a mapping that ``torch.load(..., weights_only=True)`` reads: ``model`` (state dict),
    ``class_names`` (list of str), ``config`` (plain data), ``detkit_version`` and, in training checkpoints,
    ``trainer``.

    fvcore's Checkpointer is not used because it writes in place and pickles whatever it is given: a run that is
    killed while writing would be left with half a file that its ``last_checkpoint`` names. Here a file is whole or
    not there, and it is named as the last one only after that. Only rank 0 writes; all ranks may call.

    Args:
        output_dir: the run's folder, made when the first file is written.
        keep: how many training checkpoints stay, the newest ones; None keeps all.

    Raises:
        ValueError: ``keep`` is below 1.
    """

    def __init__(self, output_dir: str | os.PathLike[str], *, keep: int | None = 3):
        if keep is not None and keep < 1:
            raise ValueError(f"keep: expected at least 1 checkpoint (or None, which keeps all), got {keep}")
        self.output_dir, self.keep = Path(output_dir), keep

    def save(
        self,
        name: str,
        model: nn.Module,
        *,
        trainer_state: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Path:
        """Writes ``name.pth`` and returns its path.

        With a ``trainer_state`` it becomes the checkpoint that a resume finds, and older ones are pruned.

        Args:
            name: e.g. ``"checkpoint_0000999"`` or ``"model_final"``.
            model: may be wrapped; the weights of the model itself are written.
            trainer_state: tensors and plain data.
            config: the run's complete config as plain data.
            class_names: None takes the model's own.
        """
        path = self.output_dir / f"{name}.pth"
        if not distributed.is_main():
            return path
        model = distributed.unwrap(model)
        class_names = getattr(model, "class_names", None) if class_names is None else class_names
        content: dict[str, Any] = {
            "model": model.state_dict(),
            "class_names": None if class_names is None else [str(n) for n in class_names],
            "config": None if config is None else dict(config),
            "detkit_version": detkit.__version__,
        }
        if trainer_state is not None:
            content["trainer"] = dict(trainer_state)
        with atomic_write(path) as file:
            torch.save(content, file)
        if trainer_state is not None:
            with atomic_write(self._last, "w") as file:
                file.write(f"{path.name}\n")
            self._prune(path)
        logger.info("wrote %s", path)
        return path

    def latest(self) -> Path | None:
        """The checkpoint to resume from, or None where the folder has none."""
        named = self.output_dir / self._last.read_text().strip() if self._last.is_file() else None
        if named is not None and named.is_file():
            return named
        found = self._training_checkpoints()
        if named is not None and found:
            logger.warning("%s is gone; the newest checkpoint there is %s", named, found[-1].name)
        return found[-1] if found else None

    @property
    def _last(self) -> Path:
        return self.output_dir / "last_checkpoint"

    def _training_checkpoints(self) -> list[Path]:
        """Oldest first, by the time they were written: the folder may hold higher numbers of an earlier run."""
        files = [p for p in self.output_dir.glob("checkpoint_*.pth") if _TRAINING.fullmatch(p.name)]
        return sorted(files, key=lambda p: (p.stat().st_mtime_ns, p.name))

    def _prune(self, newest: Path) -> None:
        if self.keep is None:
            return
        others = [p for p in self._training_checkpoints() if p != newest]
        for path in others[: max(len(others) - (self.keep - 1), 0)]:
            path.unlink(missing_ok=True)
