"""Files of weights that a backbone starts from."""

import os
import pickle
import zipfile
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detkit.utils.file_checks import check_torch_file, is_safetensors
from detkit.utils.paths import path_manager
from detkit.utils.transfer import DownloadError
from detkit.zoo import shown


def local_file(file: str) -> str:
    """The local file of a path, an address or a name of weights. Raises ValueError where it cannot be had."""
    try:
        local = path_manager.get_local_path(file)
    except DownloadError as error:
        raise ValueError(f"weights: {error}") from error
    if not os.path.exists(local):
        raise ValueError(f"weights: there is no file '{shown(file)}'; give a state dict of the network, or null")
    return local


def read_state_dict(file: str) -> dict[str, Tensor]:
    """The state dict of a network, also one that stands under ``model`` or ``state_dict`` in the file.

    Raises:
        ValueError: it cannot be had or read, is no state dict, or has values that are not finite.
    """
    source, local = shown(file), local_file(file)
    try:
        if is_safetensors(local):
            state: Any = load_file(local)
        else:
            check_torch_file(local)
            state = torch.load(local, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        zipfile.BadZipFile,
        SafetensorError,
    ) as e:
        raise ValueError(f"weights: '{source}' cannot be read as a state dict: {e}") from e
    for key in ("model", "state_dict"):
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"weights: '{source}' is no state dict (name -> tensor)")
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ValueError(f"weights: '{source}' has values that are not finite, such as in {bad[0]}")
    return state
