"""Seeds and random states."""

import contextlib
import os
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int, *, deterministic: bool = False) -> None:
    """Seeds Python's, numpy's and torch's global generators (the CPU's and every GPU's).

    Args:
        seed: any integer of at least 0.
        deterministic: also asks torch for deterministic algorithms (it warns where there is none) and turns off
            cuDNN's timing-based choice of kernels.

    Raises:
        ValueError: the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed: expected an integer of at least 0, got {seed}")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def random_state_restored() -> Iterator[None]:
    """Takes back what ``seed_everything`` sets in its block, and what is drawn there."""
    state, name = rng_state(), "CUBLAS_WORKSPACE_CONFIG"
    deterministic, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    warn_only, workspace = torch.is_deterministic_algorithms_warn_only_enabled(), os.environ.get(name)
    try:
        yield
    finally:
        set_rng_state(state)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        os.environ.pop(name, None)
        os.environ.update({} if workspace is None else {name: workspace})


def rng_state() -> dict[str, Any]:
    """The state of every global generator, as tensors and plain numbers, so that a checkpoint can hold it."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    numpy_state = (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss))
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (*numpy_state, float(cached)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Puts the global generators where ``rng_state`` found them. GPUs that this machine lacks are left out."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        for device, device_state in zip(range(torch.cuda.device_count()), state["cuda"]):
            torch.cuda.set_rng_state(device_state, device)
