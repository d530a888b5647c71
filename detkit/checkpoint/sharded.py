"""Sharded checkpoints: folders to which every process writes its local shards, and that any program can read.

Each process has one file of torch.save, so that its checksums and its loading without code serve here too. The file of
rank 0 also has all that is not sharded (counters, random states, the config), with a note in the place of each sharded
tensor. ``torch.distributed.checkpoint`` is not used because its index is a pickle that is loaded as it is, and because
it has no checksums.
"""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detkit.checkpoint.files import read_torch, write_torch
from detkit.registry import DataError
from detkit.utils import distributed
from detkit.utils.sharding import is_dtensor

_NOTE = "sharded tensor"
"""The key of a note ``{_NOTE: (number, axis, shape)}``: the place in every file's ``shards``, and the axis to join."""


def write_sharded(content: Mapping[str, Any], folder: Path) -> None:
    """Writes ``folder``, which is complete or not there. All processes must call it, with the same structure.

    Args:
        content: nested mappings, lists and tuples of tensors and plain data; sharded tensors along one axis each.
        folder: on a disk that all processes see.

    Raises:
        OSError: a process could not write; raised in all of them, and what was written before is untouched.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    with _failing_together():
        if distributed.is_main():
            for left in folder.parent.glob(".*.unfinished"):  # by a process that died while it wrote
                shutil.rmtree(left, ignore_errors=True)
            unfinished.mkdir(parents=True)
    number = distributed.all_gather_object(secrets.token_hex(8))[0]
    shards: list[Tensor] = []
    rest = _take_shards(content, shards)
    with _failing_together():
        written = {"shards": shards, "content": rest if distributed.is_main() else None, "number": number}
        write_torch(written, unfinished / _file_name(distributed.rank(), distributed.world_size()))
    with _failing_together():
        if distributed.is_main():
            _replace(folder, unfinished)


@contextlib.contextmanager
def _failing_together() -> Iterator[None]:
    """Within, an OSError of one process is raised in all, which would wait for it. All must enter and leave it."""
    failure = None
    try:
        yield
    except OSError as error:
        failure = (error.errno or errno.EIO, error.strerror or str(error))
    for rank, failed in enumerate(distributed.all_gather_object(failure)):
        if failed:
            raise OSError(failed[0], f"process {rank}: {failed[1]}")


def _replace(folder: Path, new: Path) -> None:
    """Puts ``new`` in the place of ``folder``, which is moved aside first: removing it takes long."""
    old = folder.with_name(f".{folder.name}.old.unfinished")
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def read_sharded(folder: Path) -> Any:
    """What ``write_sharded`` was given, with full tensors on the CPU; one process is enough.

    Raises:
        DataError: a file is missing, damaged or of another program.
    """
    if (folder / "index.json").is_file():
        raise DataError(
            f"{folder}: is a checkpoint in the sharded format of an earlier detkit, which this one does not read. Go on"
            " with the detkit that wrote it and train.checkpoint_in_parts=false until its next checkpoint, which is"
            " one file, or start a new run from its model_final.pth with train.init_weights"
        )
    first = next(folder.glob(_file_name(0, "[1-9]*")), None)
    if first is None:
        if (folder / "model_final.pth").is_file():
            raise DataError(f"{folder}: is the folder of a run; its weights are {folder / 'model_final.pth'}")
        raise DataError(
            f"{folder}: has no {_file_name(0, 'N')}, so it is no checkpoint of detkit. A folder that"
            " torch.distributed.checkpoint wrote becomes a file by python -m"
            " torch.distributed.checkpoint.format_utils dcp_to_torch"
        )
    digits = first.stem.rpartition("_")[2]
    count = int(digits) if digits.isdecimal() and len(digits) < 6 else 1
    files = [read_torch(path, str(path)) for path in (folder / _file_name(rank, count) for rank in range(count))]
    try:
        if len({file.get("number") for file in files}) > 1:
            raise ValueError("they were written at different times")
        return _put_back(files[0]["content"], [file["shards"] for file in files])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(f"{folder}: its files are not of one checkpoint ({error}); copy it again") from error


def _file_name(rank: int, count: int | str) -> str:
    return f"shard_{rank}_of_{count}.pth"


def _take_shards(value: Any, shards: list[Tensor]) -> Any:
    """``value`` with a note for each sharded tensor, whose local shard is added to ``shards``."""
    if is_dtensor(value):
        (placement,) = value.placements
        shards.append(value.detach().to_local().cpu())
        return {_NOTE: (len(shards) - 1, placement.dim, tuple(value.shape))}
    if isinstance(value, Mapping):
        return {key: _take_shards(item, shards) for key, item in value.items()}
    return type(value)(_take_shards(item, shards) for item in value) if type(value) in (list, tuple) else value


def _put_back(value: Any, shards: Sequence[Sequence[Tensor]]) -> Any:
    if isinstance(value, Mapping):
        if list(value) != [_NOTE]:
            return {key: _put_back(item, shards) for key, item in value.items()}
        number, axis, shape = value[_NOTE]
        full = torch.cat([shard_list[number] for shard_list in shards], axis)
        if tuple(full.shape) != shape:
            raise ValueError(f"a tensor of shape {tuple(full.shape)} instead of {shape}")
        return full
    return type(value)(_put_back(item, shards) for item in value) if type(value) in (list, tuple) else value
