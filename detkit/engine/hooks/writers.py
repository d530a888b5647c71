"""Hooks that write the lines of metrics: to metrics.jsonl in every run, to TensorBoard where a config says so."""

import contextlib
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from detkit.config import FilePath
from detkit.engine.interfaces import HOOKS, Hook, Training
from detkit.engine.metrics import Line, Pictures
from detkit.utils import atomic_write, distributed
from detkit.utils.paths import naming_file

logger = logging.getLogger(__name__)


class MetricsWriter(Hook):
    """Writes every line of metrics to ``metrics.jsonl``.

    On a resume, lines of steps that are done again are cut first, and what is evaluated again for the step that the
    checkpoint came after is not written twice; a run from the start begins a new file. Rank 0 only.

    Args:
        path: None is ``metrics.jsonl`` in the trainer's ``output_dir``.
    """

    def __init__(self, path: str | Path | None = None):
        super().__init__()
        self.path = None if path is None else Path(path)
        self._there: list[frozenset[str]] = []  # of the lines of the last finished step
        self._step = -1
        self._waiting: list[str] = []  # lines that could not be written yet

    def before_train(self, trainer: Training) -> None:
        """Cuts the file. Raises ValueError where neither hook nor trainer has a folder."""
        if not distributed.is_main():
            return
        if self.path is None:
            if trainer.output_dir is None:
                raise ValueError("MetricsWriter: give a path, or the trainer an output_dir")
            self.path = trainer.output_dir / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._step = trainer.finished - 1
        kept = cut_lines(self.path, trainer.finished)
        self._there = [frozenset(line) for line in kept if line["iteration"] == self._step]

    def state_dict(self) -> dict[str, Any]:
        """Nothing; but the lines are on the disk before the checkpoint is, which relies on them."""
        if self.path is not None and self.path.is_file():
            try:
                with self.path.open("rb") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                logger.warning("%s: may not be complete on the disk (%s)", self.path, error)
        return {}

    def on_metrics(self, trainer: Training, line: Line) -> None:
        if self.path is None or not distributed.is_main():
            return
        names = frozenset(line)
        if line.get("iteration") == self._step and names in self._there:
            self._there.remove(names)
            return
        try:
            self._waiting.append(as_json(line))
            while self._waiting:
                append_line(self.path, self._waiting[0])
                del self._waiting[0]
        except OSError as error:
            words = "its lines are kept, and written with the next one"
            logger.warning("%s: cannot be written (%s); %s", self.path, error, words)
        except (TypeError, ValueError) as error:  # from a hook that publishes something else than numbers
            logger.warning("%s: a line is left out (%s): %s", self.path, error, line)


def as_json(line: Line) -> str:
    """The line as JSON. Numbers that are not finite become null. Raises TypeError for what is no number or text."""
    finite = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in line.items()}
    return json.dumps(finite, allow_nan=False)


def append_line(path: Path, line: str) -> None:
    """Appends a line. Raises OSError where it cannot be written whole; the file is then as it was."""
    content = f"{line}\n".encode()
    with naming_file(path), path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            while content:
                content = content[file.write(content) or 0 :]
        except OSError:
            file.truncate(size)
            raise


def cut_lines(path: Path, finished: int) -> list[Line]:
    """Drops the lines of steps that will be done (again), those numbered ``finished`` or higher, and torn ones.

    Returns:
        The lines that stay; the file then ends with a line's end.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    contents, lines = text.splitlines(), list[Line]()
    kept = []
    for content in contents:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            line = json.loads(content)
            if line["iteration"] < finished:
                lines.append(line)
                kept.append(f"{content}\n")
    if text != "".join(kept):
        logger.info("%s: dropped %d lines, of steps from %d on", path, len(contents) - len(kept), finished)
        with atomic_write(path, "w") as file:
            file.writelines(kept)
    return lines


@HOOKS.register()
class TensorBoardWriter(Hook):
    """Writes the lines of metrics, evaluations included, and pictures of predictions for TensorBoard. Rank 0 only.

    Where tensorboard is not installed it says so once and does nothing.

    Args:
        folder: where in the run's folder.
    """

    optional = True

    def __init__(self, *, folder: FilePath = "tensorboard"):
        super().__init__()
        self.folder = folder
        self._writer: Any = None

    def before_train(self, trainer: Training) -> None:
        if not distributed.is_main():
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            if (error.name or "").rpartition(".")[2] != "tensorboard":  # it is there, but not what it needs
                raise
            logger.info("TensorBoardWriter: tensorboard is not installed (pip install tensorboard); nothing written")
            return
        # purge_step hides what a run that was resumed had written beyond its checkpoint.
        self._writer = SummaryWriter(str(output_folder(trainer, self) / self.folder), purge_step=trainer.finished)

    def after_train(self, trainer: Training) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def on_metrics(self, trainer: Training, line: Line) -> None:
        for name, value in line.items() if self._writer is not None else ():
            if name != "iteration":
                self._writer.add_scalar(name, value, line["iteration"])

    def on_pictures(self, trainer: Training, pictures: Pictures) -> None:
        for name, picture in pictures.items() if self._writer is not None else ():
            self._writer.add_image(f"predictions/{name}", picture, trainer.step, dataformats="HWC")


def output_folder(trainer: Training, hook: Hook) -> Path:
    """The run's folder, for a hook that writes there. Raises ValueError where the trainer has none."""
    if trainer.output_dir is None:
        raise ValueError(f"{type(hook).__name__}: the trainer has no output_dir to write to")
    return trainer.output_dir
