"""The helpers without a process group, and across two real processes."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import torch.multiprocessing as mp
from processes import in_processes

from detkit.utils import distributed


def test_works_without_a_process_group():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    distributed.barrier()
    assert distributed.all_gather_object({"a": 1}) == [{"a": 1}]
    assert distributed.gather_object({"a": 1}) == [{"a": 1}]


WAITING = """
import os, signal, torch
from detkit.utils import distributed
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: None)
print("here", flush=True)
with distributed.process_group(torch.device("cpu")):
    pass
"""


@pytest.mark.parametrize(("rank", "number", "code"), [(0, signal.SIGTERM, 75), (1, signal.SIGINT, 130)])
def test_a_signal_ends_a_process_that_waits_for_others_who_never_come(rank, number, code):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, **{name: str(value) for name, value in told.items()}}
    command = [sys.executable, "-c", WAITING]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"here\n"
        for _ in range(100):  # the first signals may come before it waits
            process.send_signal(number)
            try:
                process.wait(0.3)
                break
            except subprocess.TimeoutExpired:
                continue
        left = process.poll()
        process.kill()
    assert left == code


def _worker(rank):
    assert distributed.rank() == rank
    assert distributed.is_main() == (rank == 0)
    assert distributed.all_gather_object(rank * 10) == [0, 10]
    assert distributed.gather_object(["x" * (1 + 999 * rank)]) == ([] if rank else [["x"], ["x" * 1000]])
    distributed.barrier()


@pytest.mark.slow
def test_across_two_processes():
    in_processes(_worker)


def meet_twice(rank, port):
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_USE_AGENT_STORE="True")
    for group in range(2):
        time.sleep(group * (1 - rank))  # the other one finds what it left the first time
        with distributed.process_group(torch.device("cpu"), minutes=2):
            own = torch.distributed.new_group(backend="gloo")  # as a training has one for its signals
            assert distributed.all_gather_object((group, rank)) == [(group, 0), (group, 1)]
            torch.distributed.destroy_process_group(own)


def test_processes_of_one_launch_may_meet_several_times():
    """As in a script that trains twice: a launcher's store keeps the addresses of the first group."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    mp.start_processes(meet_twice, (store.port,), nprocs=2, start_method="forkserver")
