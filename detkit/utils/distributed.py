"""The communication of a run's processes. Everything works, and costs nothing, without a process group."""

import contextlib
import datetime
import itertools
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous

from detkit.signals import SIGNALS, exit_code


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def launched() -> bool:
    """Whether a launcher such as ``torchrun`` started this process as one of several (or as one of one)."""
    return all(name in os.environ for name in VARIABLES)


VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells each of its processes."""


def launch_id() -> str:
    """What all processes of one launch have in common, those that take the place of dead ones included; else "".

    The launcher's run id (``torchrun --rdzv-id``, or made up by ``--standalone``), which names a job by definition;
    without one, the launcher's own process.
    """
    if not launched():
        return ""
    given = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return given if given != "none" else f"process {os.getppid()} on {socket.gethostname()}"


@contextlib.contextmanager
def process_group(device: torch.device, minutes: float = 30) -> Iterator[None]:
    """The process group of the processes that a launcher has started, for as long as the block runs.

    Tensors on a GPU go through nccl, all else (objects, flags, barriers) through gloo. Without a launcher, or where
    there is a group already, this does nothing. When the block ends by an exception the group is left to the end of
    the process, because the others may not answer any more; it is the launcher that ends them.

    Args:
        device: this process's own.
        minutes: how long a process waits for the others before it gives up. Rank 0 alone computes metrics.
    """
    if not launched() or _active():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    timeout = datetime.timedelta(minutes=minutes)
    with _ended_by_signals():
        _meet(device, timeout)
    yield
    dist.barrier()  # none is gone while another still waits for it
    dist.destroy_process_group()


_groups = itertools.count()
"""Numbers the groups of this process: a script may train several times."""


def _meet(device: torch.device, timeout: datetime.timedelta) -> None:
    store, number, processes = next(rendezvous("env://", timeout=timeout))
    store = dist.PrefixStore(f"group {next(_groups)}", store)  # addresses of an earlier group lead nowhere
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        # One machine's launcher keeps its store: processes that replace dead ones would meet their addresses there.
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=processes, timeout=timeout)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A thread ends the process on a signal that has a handler: while torch waits for the others, no handler runs."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(os, "set_blocking"):
        yield  # the latter: on Windows before Python 3.12
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def wait() -> None:
        with os.fdopen(reading, "rb", buffering=0) as signals:
            while number := signals.read(1):
                if number[0] in SIGNALS:
                    os.write(2, b"stopped by a signal while it waited for the other processes\n")
                    os._exit(exit_code(number[0]))

    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=wait, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)  # which ends the thread


def rank() -> int:
    """This process's number among all processes of the run; 0 without a process group."""
    return dist.get_rank() if _active() else 0


def world_size() -> int:
    """How many processes the run has; 1 without a process group."""
    return dist.get_world_size() if _active() else 1


def is_main() -> bool:
    """Whether this process writes files and prints messages (rank 0)."""
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
    value = torch.tensor(int(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def share_buffers(model: nn.Module) -> None:
    """Makes rank 0's buffers everyone's, such as the statistics of norms, of which every process has seen others.

    All processes must call it.
    """
    if world_size() == 1:
        return
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)


def gather_object(obj: Any) -> list[Any]:
    """``obj`` of every process, ordered by rank, on rank 0; [] on the others, which are sent nothing.

    All processes must call it; the objects must be picklable.
    """
    if world_size() == 1:
        return [obj]
    gathered: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(obj, gathered)
    return gathered or []


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, out of ``DistributedDataParallel``, ``DataParallel`` and ``torch.compile``."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model
