"""Sharded models (FSDP): full tensors, distributing tensors, when processes exchange weights and gradients.

Everything works, and costs nothing, for models that are not sharded.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

RESHARDS = "reshards_after_forward"
"""Attribute of a sharded model: whether its units give their weights back after each forward pass."""


def is_dtensor(value: Any) -> bool:
    """Whether this is a sharded tensor (torch's ``DTensor``), of which each process has a local shard."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's weights are sharded, so that a forward pass needs all processes."""
    return any(is_dtensor(parameter) for parameter in model.parameters())


def local_shard(value: Tensor) -> Tensor:
    """This process's shard of a sharded tensor; any other tensor as it is."""
    return value.to_local() if is_dtensor(value) else value  # type: ignore[attr-defined]


def full_tensors(value: Any) -> Any:
    """``value`` with a full tensor for every sharded one in its mappings, lists and tuples; all processes must call it.

    Full tensors are on the CPU, on every process; all else stays the very object that it is.
    """
    if is_dtensor(value):
        return value.detach().full_tensor().cpu()
    if isinstance(value, Mapping):
        return {key: full_tensors(item) for key, item in value.items()}
    return type(value)(map(full_tensors, value)) if type(value) in (list, tuple) else value


def distribute(value: Tensor, like: Tensor) -> Tensor:
    """``value`` sharded as ``like`` is; as it is where ``like`` is not sharded. All processes must call it."""
    if not is_dtensor(like) or is_dtensor(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    return distribute_tensor(value.to(sharded.device), sharded.device_mesh, sharded.placements)


def distribute_optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state dict of full tensors, its running means sharded as the parameters that they belong to."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(map(is_dtensor, parameters)):
        return state

    def distributed(number: int, value: Any) -> Any:
        """A value of parameter ``number``, sharded if it is of its shape."""
        fits = isinstance(value, Tensor) and number < len(parameters) and value.shape == parameters[number].shape
        return distribute(value, parameters[number]) if fits else value

    values = {n: {name: distributed(n, value) for name, value in entry.items()} for n, entry in state["state"].items()}
    return {**state, "state": values}


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
def gradient_sync(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Within it backward passes average gradients over processes, or do not.

    Args:
        model: as ``Parallelism.wrap`` gave it.
        enabled: false for batches of a step that are not its last.
    """
    if enabled:
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
