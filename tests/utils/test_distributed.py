"""The helpers without a process group, and across two real processes."""

import pytest
import torch
from processes import in_processes

from detkit.utils import distributed


def test_works_without_a_process_group():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    distributed.barrier()
    assert distributed.all_gather_object({"a": 1}) == [{"a": 1}]
    assert distributed.gather_object({"a": 1}) == [{"a": 1}]
    value = torch.tensor(3.0, requires_grad=True)
    mean = distributed.reduce_mean({"x": value})
    assert mean["x"] == 3.0
    assert not mean["x"].requires_grad


def _worker(rank):
    assert distributed.rank() == rank
    assert distributed.is_main() == (rank == 0)
    assert distributed.all_gather_object(rank * 10) == [0, 10]
    assert distributed.gather_object(["x" * (1 + 999 * rank)]) == ([] if rank else [["x"], ["x" * 1000]])
    # Other orders of insertion, other dtypes: the names decide.
    values = {"a": torch.tensor(rank), "b": torch.tensor(1.0 + rank)}
    mean = distributed.reduce_mean(dict(reversed(values.items())) if rank else values)
    assert (mean["a"].item(), mean["b"].item()) == (0.5, 1.5)
    distributed.barrier()


@pytest.mark.slow
def test_across_two_processes():
    in_processes(_worker)
