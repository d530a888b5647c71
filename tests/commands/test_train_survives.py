"""The training tool in real processes: killed at random and while it writes, asked to leave, on a full disk."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from survive_helpers import ROOT, DieEvaluating, DieWriting, NoRoom, Pause, Runner

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    """For the server that the processes are forked from, which takes its paths from the environment."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests/commands'}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_twenty_kills_change_nothing(tmp_path):
    options = ["solver.max_iter=64", "train.checkpoint_period=2", "train.eval_period=16"]
    straight, runner = Runner(tmp_path / "straight", *options), Runner(tmp_path / "run", *options)
    assert straight.run() == 0
    size = next(straight.folder.glob("checkpoint_*.pth")).stat().st_size
    rng, writing = random.Random(1), 0
    for number in range(20):
        failure = None
        if number % 3 == 2:
            moment = ("write", "write", "before", "after")[writing % 4]
            failure, writing = DieWriting(rng.randint(1, 2), rng.randrange(size), moment), writing + 1
        process = runner.start(failure=failure)
        if failure is None:
            runner.wait_for_a_line(process)
            time.sleep(rng.uniform(0, 0.1))
            os.kill(process.pid, signal.SIGKILL)
        process.join(240)
        assert process.exitcode == -signal.SIGKILL, runner.words()[-2000:]
        if failure is not None and moment != "after":
            assert len(list(runner.folder.glob(".checkpoint_*.tmp"))) == 1  # it was writing
    assert writing == 6
    assert runner.run() == 0, runner.words()[-2000:]
    assert not list(runner.folder.glob(".*.tmp"))
    got, expected = runner.outcome(), straight.outcome()
    assert {key for key in expected if got[key] != expected[key]} == set()


def test_a_signal_to_all_processes_of_a_run_ends_it_with_a_checkpoint(tmp_path):
    options = ["solver.max_iter=12", "train.checkpoint_period=100", "data.num_workers=2"]
    straight, runner = Runner(tmp_path / "straight", *options), Runner(tmp_path / "run", *options)
    assert straight.run() == 0
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        paused = tmp_path / "paused"
        process = runner.start(failure=Pause(paused))
        runner.wait_for_the_pause(process, paused)
        workers = children(process.pid)
        assert len(workers) == 2
        for pid in [process.pid, *workers]:
            os.kill(pid, number)
        paused.unlink()
        process.join(240)
        assert process.exitcode == (130 if number == signal.SIGINT else 75), runner.words()[-2000:]
        assert f"{number.name}; --resume goes on from here" in (runner.folder / "log.txt").read_text()
    assert runner.run() == 0, runner.words()[-2000:]
    assert runner.outcome() == straight.outcome()


def children(pid):
    """The loader's workers."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                pids.append(int(stat.parent.name))
    return pids


def test_killed_around_its_end_a_run_still_gets_its_evaluation(tmp_path):
    options = ["solver.max_iter=4", "train.checkpoint_period=3", "train.eval_period=2"]
    straight, runner = Runner(tmp_path / "straight", *options), Runner(tmp_path / "run", *options)
    assert straight.run() == 0
    for failure in (DieEvaluating(2), DieEvaluating(3), DieEvaluating(2), DieEvaluating(1, "write_evaluation")):
        assert runner.run(failure=failure) == -signal.SIGKILL
        assert not (runner.folder / "evaluation.json").exists()
    assert runner.run() == 0, runner.words()[-2000:]
    assert runner.outcome() == straight.outcome()
    before = (runner.folder / "evaluation.json").stat().st_mtime_ns
    assert runner.run() == 0
    assert "is finished. To train longer, raise solver.max_iter, which is 4 now" in runner.words()
    assert (runner.folder / "evaluation.json").stat().st_mtime_ns == before
    (runner.folder / "evaluation.json").unlink()
    assert runner.run() == 0
    assert runner.outcome() == straight.outcome()
    assert runner.run("solver.max_iter=null", "solver.epochs=0.8") == 0
    assert "raise solver.epochs, which is 0.8 now" in runner.words()


def test_a_full_disk_stops_it_and_leaves_the_checkpoint_before(tmp_path):
    runner = Runner(tmp_path / "run", "train.checkpoint_period=1")
    assert runner.run("solver.max_iter=1") == 0
    before = (runner.folder / "checkpoint_0000000.pth").read_bytes()
    assert runner.run("solver.max_iter=3", failure=NoRoom(len(before) // 2)) == 2
    last = runner.words().splitlines()[-1]
    for words in ("OSError", "checkpoint_0000001.pth: could not be written", "needs about", "MB free", "--resume"):
        assert words in last
    assert (runner.folder / "checkpoint_0000000.pth").read_bytes() == before
    assert not (runner.folder / "checkpoint_0000001.pth").exists()
    assert runner.run("solver.max_iter=3") == 0


def test_an_early_stop_is_an_end(tmp_path):
    stop = "train.hooks=[{name: EarlyStopping, metric: total_loss, mode: min, min_delta: 1000, patience: %d}]"
    runner = Runner(tmp_path / "run", "train.checkpoint_period=2", "solver.max_iter=20")
    assert runner.run(stop % 2) == 0, runner.words()[-2000:]
    assert len(runner.lines()) == 4
    assert (runner.folder / "evaluation.json").is_file()
    assert runner.run(stop % 2) == 0
    assert "stopped early: total_loss has not got better" in runner.words()
    assert len(runner.lines()) == 4
    assert runner.run(stop % 3) == 0
    assert len(runner.lines()) == 6
