"""Building what a config names: on which device, from which weights, and whose mistake it was."""

import os
from typing import Any, TypeVar

import torch

from detkit.config import Recipe
from detkit.modeling.interfaces import Backbone
from detkit.registry import ConfigError, DataError

T = TypeVar("T")


def torch_device(name: str | torch.device) -> torch.device:
    """The device that ``name`` means here; ``auto`` is a CUDA GPU where there is one, else the CPU.

    Of several processes on a machine each gets a GPU of its own, by ``LOCAL_RANK``.

    Raises:
        ConfigError: torch does not have it, there are more processes than GPUs, or one GPU is named for several.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        number, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if number >= gpus:
            raise ConfigError(
                f"device: '{name}' is a GPU for each process, and this is process {number + 1} on a machine that has"
                f" {gpus}; start fewer processes, or take train.device=cpu"
            )
        return torch.device(f"cuda:{number}")
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise ConfigError(f"device: '{name}' is not there; take auto, cpu, cuda, cuda:1 or mps") from None
    if device.type == "cuda" and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
        raise ConfigError(f"device: '{name}' is one GPU, and there are several processes; take auto or cuda")
    return device


def without_weights(recipe: Recipe[Any]) -> Recipe[Any]:
    """``recipe`` with ``weights=None`` for every backbone in it."""
    options = {k: without_weights(v) if isinstance(v, Recipe) else v for k, v in recipe.kwargs.items()}
    if issubclass(recipe.cls, Backbone) and "weights" in options:
        options["weights"] = None
    return Recipe(recipe.cls, options)


def built(path: str, recipe: Recipe[T], *wiring: Any) -> T:
    """What the recipe makes; an error becomes a ConfigError that says which part of the config."""
    try:
        return recipe(*wiring)
    except (ConfigError, DataError):
        raise
    except (ValueError, RuntimeError, ZeroDivisionError) as error:  # torch's own words for a width of 0, say
        raise ConfigError(f"{path}: cannot be built. {error}") from error
