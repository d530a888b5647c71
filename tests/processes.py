"""Running a function in several processes that talk to one another by gloo."""

import multiprocessing
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# The server that forks them imports all of it once; a fork of the tests' own process could not run backward passes.
multiprocessing.get_context("forkserver").set_forkserver_preload(["detkit.experiment", "detkit.checkpoint"])


def in_processes(function: Callable[..., None], *arguments: Any, num: int = 2) -> None:
    """Calls ``function(rank, *arguments)`` in ``num`` processes of one group; raises what one of them raises.

    The function must stand in a test's module, not in another function.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_begin, (num, folder, function, *arguments), nprocs=num, start_method="forkserver")


def _begin(rank: int, num: int, folder: str, function: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=num)
    function(rank, *arguments)
    dist.barrier()
    dist.destroy_process_group()
