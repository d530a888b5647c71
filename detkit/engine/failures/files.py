"""The files of a step that failed: its batches, and the state that it began with. Tensors and plain data only."""

import dataclasses
import itertools
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import detkit
from detkit.checkpoint.files import read_torch, write_torch
from detkit.config.user_file import CODE
from detkit.registry import DataError
from detkit.structures import Sample, from_plain, to_plain

STATE, CONFIG = "state.pth", "config.yaml"


def free_folder(output_dir: Path, step: int) -> Path:
    """``failure_step_<n>``, with a number behind where an earlier failure has taken that."""
    first = output_dir / f"failure_step_{step}"
    others = (first.with_name(f"{first.name}_{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([first], others) if not path.exists())


@dataclasses.dataclass(frozen=True)
class FailedStep:
    """A step that failed, as one process saw it.

    Args:
        batches: those that it had begun with: samples, and the random state before.
        batch: which of them has a loss that is not finite; None: that is not known, or it is the gradients.
        values: loss terms and metrics of that batch; {}: it is the gradients; None: it is another process's loss.
    """

    batches: Sequence[tuple[list[Sample], dict[str, Any]]]
    batch: int | None = None
    values: Mapping[str, float] | None = None

    @property
    def samples(self) -> list[Sample]:
        """Of the batch that failed, or of all where that is not known."""
        batches = self.batches if self.batch is None else [self.batches[self.batch]]
        return [sample for samples, _ in batches for sample in samples]


def write_batches(folder: Path, rank: int, step: FailedStep) -> None:
    """Writes ``batch_rank<r>.pth``. Raises TypeError for a field of a sample that is no plain data."""
    content = {
        "detkit_version": detkit.__version__,
        "batches": [{"samples": [to_plain(s) for s in samples], "rng": dict(rng)} for samples, rng in step.batches],
        "batch": step.batch,
        "values": dict(step.values or {}),
    }
    write_torch(content, folder / f"batch_rank{rank}.pth")


def write_state(folder: Path, state: Mapping[str, Any], run_config: Path) -> None:
    """Writes ``state.pth`` (a checkpoint that also holds ``failure``), and a copy of the run's config beside it."""
    if run_config.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run_config, folder / CONFIG)
        if (run_config.parent / CODE).is_dir():
            shutil.copytree(run_config.parent / CODE, folder / CODE, dirs_exist_ok=True)
    write_torch(state, folder / STATE)


def read_state(folder: str | Path) -> dict[str, Any]:
    """What ``write_state`` wrote. Raises DataError where it is missing or damaged."""
    return _read(Path(folder) / STATE, "failure")


def read_batches(folder: str | Path, rank: int = 0) -> FailedStep:
    """What ``write_batches`` wrote. Raises DataError where it is missing, damaged or of an earlier detkit."""
    path = Path(folder) / f"batch_rank{rank}.pth"
    content = _read(path, "batches")
    if "values" not in content:
        raise DataError(f"{path}: was written by an earlier detkit; replay it with that one")
    batches = [([from_plain(s) for s in batch["samples"]], batch["rng"]) for batch in content["batches"]]
    return FailedStep(batches, content["batch"], content["values"])


def _read(path: Path, key: str) -> dict[str, Any]:
    if not os.path.isfile(path):
        raise DataError(f"{path}: there is no such file; expected what a training writes when a step fails")
    content = read_torch(path, str(path))
    if not isinstance(content, dict) or key not in content:
        raise DataError(f"{path}: holds no '{key}'; expected what a training writes when a step fails")
    return content
