"""Checkpoints of weights in parts: a folder that all processes write at once, and that anyone can read.

``torch.distributed.checkpoint`` writes each process's parts to a file of its own. Its index is a pickle, which could
run anything, so ``index.json`` says the same in plain words, and that is what is read. What is not in parts (counters,
random states, the config) stands in ``rest.pth``, with the keys of the tensors in the places where they belong.
"""

import errno
import io
import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detkit.registry import DataError
from detkit.utils import atomic_write, distributed
from detkit.utils.sharding import is_part

INDEX, REST, KEY = "index.json", "rest.pth", "tensor in parts"


def write_parts(content: Mapping[str, Any], path: Path) -> None:
    """Writes the folder ``path``; it is whole or not there. All processes must call it, with the same structure.

    Args:
        content: nested mappings, lists and tuples of tensors and plain data.
        path: on a disk that all processes see.

    Raises:
        OSError: a process could not write; it comes up in all of them, and what was written before is whole.
    """
    import torch.distributed.checkpoint as dcp

    parts: dict[str, Tensor] = {}
    rest = _take_parts(content, "", parts)
    unfinished = path.with_name(f".{path.name}.unfinished")
    if distributed.is_main():
        for left in path.parent.glob(".*.parts.unfinished"):  # by a process that died while it wrote
            shutil.rmtree(left, ignore_errors=True)
        unfinished.mkdir(parents=True)
    distributed.barrier()
    writer = dcp.FileSystemWriter(unfinished, single_file_per_rank=True, sync_files=True)
    try:
        metadata = dcp.save(parts, storage_writer=writer)
    except dcp.CheckpointException as error:  # torch brings every process's error to all of them
        rank, (cause, _) = min(error.failures.items(), key=lambda failure: failure[0])
        number = cause.errno if isinstance(cause, OSError) else None  # a full disk may show in torch's bookkeeping only
        raise OSError(number or errno.EIO, f"process {rank}: {str(cause).splitlines()[0]}") from cause
    own = {f.name: _checksum(f) for f in unfinished.glob(f"__{distributed.rank()}_*")}
    sums = {name: value for each in distributed.all_gather_object(own) for name, value in each.items()}
    if distributed.is_main():
        with atomic_write(unfinished / REST) as file:
            torch.save(rest, file)
        sums[REST] = _checksum(unfinished / REST)
        with atomic_write(unfinished / INDEX, "w") as file:
            json.dump({"checksums": sums, "tensors": _index(metadata)}, file)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(unfinished, path)
    distributed.barrier()


def read_parts(folder: Path) -> Any:
    """What ``write_parts`` was given, every tensor whole and on the host; one process is enough.

    Raises:
        DataError: a file is missing, damaged or of another program.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        for name, value in index["checksums"].items():
            if _checksum(_inside(folder, name)) != value:
                raise ValueError(f"the checksum of {name} is another")
        rest = torch.load(folder / REST, map_location="cpu", weights_only=True)
        return _put_back(rest, {key: _assembled(folder, entry) for key, entry in index["tensors"].items()})
    except Exception as error:  # a damaged file fails in as many ways as there are readers
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{folder}: cannot be read as a checkpoint in parts ({why}); it is damaged, was not copied completely, or"
            f" has no {INDEX} because another program wrote it: python -m torch.distributed.checkpoint.format_utils"
            " dcp_to_torch turns such a folder into a file"
        ) from error


def _take_parts(value: Any, path: str, parts: dict[str, Tensor]) -> Any:
    """``value`` with ``{KEY: path}`` for each tensor that lies in parts; the tensors go to ``parts``."""
    if is_part(value):
        parts[path] = value.detach()
        return {KEY: path}
    if isinstance(value, Mapping):
        return {key: _take_parts(item, f"{path}/{key}", parts) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_take_parts(item, f"{path}/{number}", parts) for number, item in enumerate(value))
    return value


def _put_back(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, Mapping):
        if list(value) == [KEY]:
            return tensors[value[KEY]]
        return {key: _put_back(item, tensors) for key, item in value.items()}
    return type(value)(_put_back(item, tensors) for item in value) if type(value) in (list, tuple) else value


def _index(metadata: Any) -> dict[str, Any]:
    """Of each tensor its type, size and where its parts begin, in the whole and in which file."""
    places: dict[tuple[str, tuple[int, ...]], Any] = {
        (index.fqn, tuple(index.offset or ())): place for index, place in metadata.storage_data.items()
    }
    tensors = {}
    for key, about in metadata.state_dict_metadata.items():
        chunks = []
        for chunk in about.chunks:
            place = places[key, tuple(chunk.offsets)]
            chunks.append([list(chunk.offsets), place.relative_path, place.offset, place.length])
        dtype = str(about.properties.dtype).removeprefix("torch.")
        tensors[key] = {"dtype": dtype, "size": list(about.size), "chunks": chunks}
    return tensors


def _assembled(folder: Path, entry: Mapping[str, Any]) -> Tensor:
    whole = torch.empty(entry["size"], dtype=getattr(torch, entry["dtype"]))
    filled = 0
    for offsets, name, start, length in entry["chunks"]:
        with open(_inside(folder, name), "rb") as file:
            file.seek(start)
            chunk = torch.load(io.BytesIO(file.read(length)), map_location="cpu", weights_only=True)
        whole[tuple(slice(o, o + n) for o, n in zip(offsets, chunk.shape))] = chunk
        filled += chunk.numel()
    if filled != whole.numel():
        raise ValueError(f"{filled} of a tensor's {whole.numel()} numbers are there")
    return whole


def _inside(folder: Path, name: str) -> Path:
    if Path(name).name != name:
        raise ValueError(f"the index names {name!r}, which is outside of the folder")
    return folder / name


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value
