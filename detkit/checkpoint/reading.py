"""Reading a checkpoint: tensors and plain data only, never code."""

import dataclasses
import os
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

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
        config: the complete config of the run as plain mappings and lists, where there is one.
        trainer: the trainer's state; None in weights that are only for use.
        source: the file, for messages.
    """

    model: dict[str, Tensor]
    class_names: tuple[str, ...] | None = None
    config: dict[str, Any] | None = None
    trainer: dict[str, Any] | None = None
    source: str = "state dict"


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a local file or at an http(s) address.

    Besides detkit's own checkpoints this takes any file of ``torch.save`` with a plain state dict, at its top or
    under ``"model"`` or ``"state_dict"``. It is unpickled with ``weights_only=True``: a file that would run code is
    refused.

    Raises:
        DataError: there is no such file, it cannot be read, holds other objects than tensors and plain data, or is
            not a checkpoint. The message names the file and the way out.
    """
    source = os.fspath(path)
    try:
        local = path_manager.get_local_path(source)
    except Exception as error:  # a download fails in as many ways as there are networks
        raise DataError(
            f"{source}: could not be fetched ({error}); check the address, or download it by hand"
        ) from error
    if not os.path.isfile(local):
        raise DataError(f"{source}: there is no such file; expected weights written by a run or by torch.save")
    try:
        content = torch.load(local, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{source}: holds Python objects or is no file of torch.save, and objects are never unpickled because that"
            " runs code. Save its tensors alone: torch.save({'model': model.state_dict()}, path)"
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, ... depending on where the file ends
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{source}: cannot be read as a checkpoint ({first_line}); it is damaged or was not written completely."
            " Copy or download it again, or take an earlier checkpoint"
        ) from error
    return as_checkpoint(content, source)


def as_checkpoint(content: Any, source: str = "state dict") -> Checkpoint:
    """Loaded content, of whatever nesting ``read_checkpoint`` takes, as a ``Checkpoint``. Raises DataError."""
    if not isinstance(content, Mapping):
        raise DataError(f"{source}: expected a mapping with the weights, got {type(content).__name__}")
    state = next((content[key] for key in ("model", "state_dict") if isinstance(content.get(key), Mapping)), content)
    others = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        what = f"'{others[0]}' is not a tensor" if others else "it is empty"
        raise DataError(
            f"{source}: is not a checkpoint ({what}); expected a state dict at the top, under 'model' or under"
            f" 'state_dict'. Its keys are {', '.join(map(str, list(content)[:6])) or 'none'}"
        )
    names = content.get("class_names")
    return Checkpoint(
        model=_unwrapped(state),
        class_names=tuple(str(name) for name in names) if isinstance(names, list | tuple) else None,
        config=_mapping(content.get("config")),
        trainer=_mapping(content.get("trainer")),
        source=source,
    )


def _mapping(value: Any) -> dict[str, Any] | None:
    return dict(value) if isinstance(value, Mapping) else None


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = dict(state)
    while prefix := next((p for p in _WRAPPERS if all(name.startswith(p) for name in names)), None):
        names = {name[len(prefix) :]: tensor for name, tensor in names.items()}
    return names
