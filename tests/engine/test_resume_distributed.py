"""Two processes that are stopped anywhere go on as if nothing had happened, and stop at the same step."""

from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from resume_helpers import STEPS, Die, Kill, Signal, outcome, start
from torch import nn

from detkit.checkpoint import Checkpointer
from detkit.engine import Interrupted
from detkit.utils import distributed


def wrap(model):
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)  # stages freeze parts


def compare(folder, name, trainer, expected):
    distributed.barrier()  # rank 0 has written
    if distributed.is_main():
        got = outcome(folder, trainer)
        assert {k for k in expected if got[k] != expected[k]} == set(), name


def worker(rank, root):
    dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=rank, world_size=2)
    root = Path(root)
    trainer = start(root / "straight", wrap=wrap)
    distributed.barrier()
    expected = outcome(root / "straight", trainer)
    assert len(expected["rng"]) == 2
    assert expected["rng"][0] != expected["rng"][1]
    for step in range(STEPS):
        folder = root / f"signal_{step}"
        to_one = [Signal(step)] if rank == step % 2 else []  # only one process gets it
        end = 0
        try:
            start(folder, last=to_one, wrap=wrap)
        except Interrupted:
            end = int(Checkpointer(folder).latest().stem.rpartition("_")[2]) if rank == 0 else step + 1
        assert distributed.all_gather_object(end) == [min(step + 1, STEPS) if step + 1 < STEPS else 0] * 2
        compare(folder, f"signal {step}", start(folder, wrap=wrap), expected)
        folder = root / f"kill_{step}"
        with pytest.raises(Kill):
            start(folder, last=[Die(after_step=step)], wrap=wrap)
        compare(folder, f"kill {step}", start(folder, wrap=wrap), expected)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_stopped_at_any_step_end_as_if_they_had_not_been(tmp_path):
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
