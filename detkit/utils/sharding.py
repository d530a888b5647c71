"""Models whose weights lie in parts on all processes (FSDP): putting together, taking apart, when to talk.

Everything works, and costs nothing, for models that are whole.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

RESHARDS = "reshards_after_forward"
"""Attribute of a sharded model: whether its units give their weights back after each forward pass."""


def is_part(value: Any) -> bool:
    """Whether this is a tensor of which each process has a part (a ``DTensor``)."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def is_sharded(model: nn.Module) -> bool:
    """Whether the processes have parts of the model's weights, so that a forward pass needs all of them."""
    return any(is_part(parameter) for parameter in model.parameters())


def own_part(value: Tensor) -> Tensor:
    """This process's part of a tensor that lies in parts; else the tensor."""
    return value.to_local() if is_part(value) else value  # type: ignore[attr-defined]


def whole(value: Any) -> Any:
    """``value`` with every tensor in its mappings, lists and tuples put together; all processes must call it.

    What was in parts becomes a tensor on the host, on every process; all else stays the very object that it is.
    """
    if is_part(value):
        return value.detach().full_tensor().cpu()
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    return type(value)(map(whole, value)) if type(value) in (list, tuple) else value


def spread(value: Tensor, like: Tensor) -> Tensor:
    """``value`` laid out as ``like``: this process's part where ``like`` lies in parts; all processes must call it."""
    if not is_part(like) or is_part(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    parts: Any = like
    return distribute_tensor(value.to(parts.device), parts.device_mesh, parts.placements)


def spread_optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's whole state dict, its running means laid out as the parameters that they belong to."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(map(is_part, parameters)):
        return state

    def laid_out(number: int, value: Any) -> Any:
        """A value of parameter ``number``, in parts if it is of its shape."""
        fits = isinstance(value, Tensor) and number < len(parameters) and value.shape == parameters[number].shape
        return spread(value, parameters[number]) if fits else value

    each = {n: {name: laid_out(n, value) for name, value in entry.items()} for n, entry in state["state"].items()}
    return {**state, "state": each}


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within it every process has all weights, so that each may predict as many images as it has.

    All processes must enter and leave it together. The weights may not change in it.
    """
    units = _units(model)
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(unit is not model and getattr(model, RESHARDS, True), recurse=False)


@contextlib.contextmanager
def averaging_gradients(model: nn.Module, talks: bool) -> Iterator[None]:
    """Whether backward passes within it average gradients over processes: ``talks`` is true once a step.

    Args:
        model: as ``Parallelism.wrap`` gave it.
        talks: false for batches of a step that are not its last.
    """
    if talks:
        yield
    elif isinstance(model, nn.parallel.DistributedDataParallel):
        with model.no_sync():
            yield
    else:
        units = _units(model)
        for unit in units:
            unit.set_requires_gradient_sync(False, recurse=False)
        try:
            yield
        finally:
            for unit in units:
                unit.set_requires_gradient_sync(True, recurse=False)


def _units(model: nn.Module) -> list[Any]:
    """The modules that ``fully_shard`` was applied to."""
    return [module for module in model.modules() if hasattr(module, "set_reshard_after_forward")]
