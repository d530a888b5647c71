"""A process that holds a run's folder."""

import contextlib
import multiprocessing
import os
import signal
import time
from pathlib import Path

from detkit.utils.run_folder import holding

FORK = multiprocessing.get_context("fork")


def hold(folder, ready, workers):
    with holding(folder):
        for _ in range(workers):  # which live on for a while when the process is killed, as loader workers do
            if os.fork() == 0:
                time.sleep(600)
        ready.set()
        time.sleep(600)


@contextlib.contextmanager
def holder_of(folder, workers=0):
    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(folder, ready, workers))
    process.start()
    assert ready.wait(240)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    try:
        yield process
    finally:
        for pid in (process.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.join()
