"""Reading a checkpoint: tensors and plain data only, never code."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

import detkit
from detkit.checkpoint.files import read_torch
from detkit.checkpoint.formats.detectron2 import zoo_class_names
from detkit.checkpoint.formats.keras import read_keras
from detkit.checkpoint.pickles import read_pickle
from detkit.checkpoint.sharded import read_sharded
from detkit.registry import DataError
from detkit.utils import path_manager

_WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        model: state dict, on the CPU, without the prefixes of wrapped models.
        class_names: the names of the classes that the model was trained on, where they are known.
        category_ids: the ids that these classes have in the data's files, where they are known.
        config: the complete config of the run as plain mappings and lists; None where another program wrote the file.
        trainer: the trainer's state; None in weights that are only for use, and where another program wrote the file.
        source: the file, for messages.
    """

    model: dict[str, Tensor]
    class_names: tuple[str, ...] | None = None
    category_ids: tuple[int, ...] | None = None
    config: dict[str, Any] | None = None
    trainer: dict[str, Any] | None = None
    source: str = "state dict"

    def content(self) -> dict[str, Any]:
        """The plain mapping to write to a file, from which ``as_checkpoint`` makes the checkpoint again."""
        content: dict[str, Any] = {
            "model": self.model,
            "class_names": None if self.class_names is None else list(self.class_names),
            "config": self.config,
            "detkit_version": detkit.__version__,
        }
        if self.category_ids is not None:
            content["category_ids"] = list(self.category_ids)
        if self.trainer is not None:
            content["trainer"] = self.trainer
        return content


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a local file or at an http(s) address, or in the folder of a sharded one (of FSDP).

    Besides detkit's own checkpoints this takes what other frameworks write: any file of ``torch.save`` with a plain
    state dict, at its top or under ``"model"`` or ``"state_dict"``; a pickle (``.pkl``) of numpy arrays, of Detectron2
    or, under ``"blobs"`` or at its top, of Caffe2; and matterport's Keras weights (HDF5; needs ``detkit[keras]``). The
    names stay as they are; ``load_weights`` translates them. The content decides what a file is, not its extension.

    Nothing of a file is ever run: torch's are unpickled with ``weights_only=True``, others by ``read_pickle``.

    Raises:
        DataError: there is no such file, it cannot be read, holds other objects than arrays, tensors and plain data
            (the message names one), or is not a checkpoint. The message names the file and the fix.
    """
    source = os.fspath(path)
    try:
        local = path_manager.get_local_path(source)
    except Exception as error:  # a download fails in as many ways as there are networks
        raise DataError(
            f"{source}: could not be fetched ({error}); check the address, or download it by hand"
        ) from error
    if os.path.isdir(local):
        return as_checkpoint(read_sharded(Path(local)), source)
    if not os.path.isfile(local):
        raise DataError(f"{source}: there is no such file; expected weights written by a run or by torch.save")
    return as_checkpoint(_content(local, source), source)


_ZIP, _HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"
_OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""The number that torch.save begins its first pickle with in the format from before its 1.6."""


def _content(local: str, source: str) -> Any:
    with open(local, "rb") as file:
        head = file.read(64)
    if head.startswith(_HDF5):
        return read_keras(source)
    if head.startswith(_ZIP) or _OLD_TORCH in head:
        return read_torch(local, source)
    with open(local, "rb") as file:
        return read_pickle(file.read(), source)


def as_checkpoint(content: Any, source: str = "state dict") -> Checkpoint:
    """Loaded content, of whatever nesting ``read_checkpoint`` takes, as a ``Checkpoint``. Raises DataError."""
    if not isinstance(content, Mapping):
        raise DataError(f"{source}: expected a mapping with the weights, got {type(content).__name__}")
    state = next((content[key] for key in _KEYS if isinstance(content.get(key), Mapping)), content)
    others = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        what = f"'{others[0]}' is not a tensor" if others else "it is empty"
        raise DataError(
            f"{source}: is not a checkpoint ({what}); expected a state dict at the top or under one of"
            f" {', '.join(map(repr, _KEYS))}. Its keys are {', '.join(map(str, list(content)[:6])) or 'none'}"
        )
    names, ids = content.get("class_names"), content.get("category_ids")
    ours = "detkit_version" in content  # Detectron2's training checkpoints have a "trainer" too
    return Checkpoint(
        model=_unwrapped(state),
        class_names=tuple(str(n) for n in names) if isinstance(names, list | tuple) else zoo_class_names(content),
        category_ids=tuple(int(n) for n in ids) if ours and isinstance(ids, list | tuple) else None,
        config=_mapping(content.get("config")) if ours else None,
        trainer=_mapping(content.get("trainer")) if ours else None,
        source=source,
    )


_KEYS = ("model", "state_dict", "blobs")
"""What the weights may stand under; else they stand at the top."""


def _mapping(value: Any) -> dict[str, Any] | None:
    return dict(value) if isinstance(value, Mapping) else None


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = dict(state)
    while prefix := next((p for p in _WRAPPERS if all(name.startswith(p) for name in names)), None):
        names = {name[len(prefix) :]: tensor for name, tensor in names.items()}
    return names
