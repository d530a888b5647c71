"""What the processes of a run say to one another. Everything works, and costs nothing, without a process group."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number among all processes of the run; 0 without a process group."""
    return dist.get_rank() if _active() else 0


def world_size() -> int:
    """How many processes the run has; 1 without a process group."""
    return dist.get_world_size() if _active() else 1


def is_main() -> bool:
    """Whether this process writes files and talks to the user (rank 0)."""
    return rank() == 0


def barrier() -> None:
    """Waits until every process is here."""
    if world_size() > 1:
        dist.barrier()


def all_gather_object(obj: Any) -> list[Any]:
    """``obj`` of every process, ordered by rank. All processes must call it; the objects must be picklable."""
    if world_size() == 1:
        return [obj]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, obj)
    return gathered


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is true on any process. All processes must call it."""
    if world_size() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    found = torch.tensor(int(flag), device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found.item())


def reduce_mean(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean over processes of each 0-d tensor, in one all-reduce; detached.

    All processes must call it with the same names. The result is float32 where there is more than one process.
    """
    if world_size() == 1 or not values:
        return {name: value.detach() for name, value in values.items()}
    names = sorted(values)
    stacked = torch.stack([values[name].detach().float() for name in names])
    dist.all_reduce(stacked)
    return dict(zip(names, (stacked / world_size()).unbind()))


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, out of ``DistributedDataParallel``, ``DataParallel`` and ``torch.compile``."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model
