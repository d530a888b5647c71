"""Processes forked from a server that has imported all of it: several that talk to one another, or one for a file."""

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# The server that forks them imports all of it once; a fork of the tests' own process could not run backward passes.
multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["detkit.experiment", "detkit.checkpoint", "detkit.predictor"]
)


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


def run_file(path: Path, *arguments: str, folder: Path) -> tuple[int, str]:
    """What ``python PATH ARGUMENTS`` in ``folder`` does, without the seconds that it takes to import torch.

    Returns:
        The exit code and all that was printed.
    """
    with tempfile.NamedTemporaryFile() as said:
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=_as_main, args=(str(path), arguments, str(folder), said.name))
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode, Path(said.name).read_text()


def _as_main(path: str, arguments: tuple[str, ...], folder: str, said: str) -> None:
    with open(said, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    multiprocessing.set_start_method("fork", force=True)  # what this process was started by is not for its workers
    os.chdir(folder)
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")
