"""detkit train in several processes: on one machine, on two, and with one that dies."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_detector import CONFIG, TINY

from detkit.commands import train as train_command
from detkit.engine import EXIT_CODE
from detkit.registry import ConfigError

ROOT = Path(__file__).resolve().parents[2]

SHORT = [*TINY, "solver.max_iter=6", "train.checkpoint_period=2"]

KILLER = '''
import os, signal
from detkit.engine import HOOKS, Hook


@HOOKS.register()
class Killed(Hook):
    """Rank 1 dies in the midst of the run, the first time.

    Args:
        step: when.
    """

    def __init__(self, *, step: int):
        super().__init__()
        self.step = step

    def before_step(self, trainer):
        if (trainer.step, os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == (self.step, "1", "0"):
            os.kill(os.getpid(), signal.SIGKILL)
'''

SLOW = """
import os, time
from detkit.engine import HOOKS, Hook


@HOOKS.register()
class Slow(Hook):
    '''Where a file asks for it, a step lasts until a signal has come.'''

    def before_step(self, trainer):
        while trainer.step >= 2 and os.path.exists(os.environ["NOTES"] + ".hold") and not trainer.interruption._noted:
            time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """The run of two processes on one machine, undisturbed."""
    folder = tmp_path_factory.mktemp("straight")
    assert run(CONFIG, "--num-processes", "2", f"train.output_dir={folder}") == 0
    return folder


def run(config: Path, *arguments: str) -> int:
    return train_command.main(["--config-file", str(config), *arguments, *SHORT])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def assert_same_run(folder: Path, other: Path) -> None:
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    results = [json.loads((f / "evaluation.json").read_text()) for f in (folder, other)]
    assert [results[0][task] for task in ("box", "mask")] == [results[1][task] for task in ("box", "mask")]


def free_port() -> int:
    """A port that nothing else takes before the job does: the system gives those below 30000 to nobody unasked."""
    for port in itertools.count(20000 + os.getpid() % 8000):  # tests that run at once begin elsewhere
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port


@pytest.mark.slow
def test_a_dead_process_is_replaced_and_the_run_ends_as_if_nothing_had_happened(two_processes, tmp_path):
    (tmp_path / "killer.py").write_text(KILLER)
    killing = tmp_path / "killing.yaml"
    killing.write_text(
        f"_base_: [{CONFIG}]\nimports: [killer.py]\n"
        f"train: {{output_dir: {tmp_path}/run, hooks: [{{name: Killed, step: 3}}]}}\n"
    )
    assert run(killing, "--num-processes", "2", "--max-restarts", "1") == 0
    assert "started again by the launcher" in (tmp_path / "run" / "log.txt").read_text()
    assert_same_run(tmp_path / "run", two_processes)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "total_loss" in line] == list(range(6))
    assert not list((tmp_path / "run").glob("earlier_run*"))


SLURM = {
    "scontrol": 'echo "$@" >> "$NOTES"; [ "$1" != show ] || echo 127.0.0.1',
    # Each copy of the command is a machine's; the words before it are srun's own.
    "srun": 'shift; for node in 1 2; do "$@" & echo $! >> "$NOTES.nodes"; done; wait',
    "scancel": 'kill -TERM $(cat "$NOTES.nodes")',
}
"""Stand-ins for Slurm's commands, on two machines that are both this one."""


@pytest.fixture
def start_job(tmp_path):
    """Runs one of the pages' scripts as Slurm would."""
    for name, body in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NOTES": str(tmp_path / "notes"),
        "OMP_NUM_THREADS": "1",
        "PET_LOCAL_ADDR": "127.0.0.1",  # torchrun's --local-addr, for machines whose own name leads nowhere
        "SLURM_JOB_ID": str(free_port() - 20000),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
    }

    (tmp_path / "slow.py").write_text(SLOW)
    config = tmp_path / "slow.yaml"
    config.write_text(f"_base_: [{CONFIG}]\nimports: [slow.py]\ntrain: {{hooks: [{{name: Slow}}]}}\n")

    def start(script: str, gpus: int) -> subprocess.Popen[str]:
        command = ["bash", f"docs/slurm/{script}.sbatch", str(config), *SHORT, f"train.output_dir={tmp_path}/run"]
        env = {**environment, "SLURM_GPUS_ON_NODE": str(gpus)}
        return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    return start


@pytest.mark.slow
def test_two_machines_train_as_one_machine_with_two_processes(two_processes, start_job, tmp_path):
    """Two launchers that find each other on loopback, started by the page's script."""
    job = start_job("several_nodes", 1)
    out, said = job.communicate(timeout=400)
    assert job.returncode == 0, said
    assert out.count("The run is in") == 1
    assert said.count("INFO training data") == 1, "rank 0 alone logs"
    assert_same_run(tmp_path / "run", two_processes)
    assert "requeue" not in (tmp_path / "notes").read_text()


def signal_in_the_midst(job: subprocess.Popen[str], number: signal.Signals, folder: Path) -> tuple[str, str]:
    """Sends a signal when the run has a checkpoint, and waits for the end; what was said."""
    for _ in range(3000):
        if (folder / "last_checkpoint").exists():
            break
        with pytest.raises(subprocess.TimeoutExpired):
            job.wait(0.1)
    job.send_signal(number)
    return job.communicate(timeout=400)


@pytest.mark.slow
def test_several_processes_that_are_asked_to_leave_end_in_the_code_of_one(start_job, tmp_path):
    (tmp_path / "notes.hold").touch()
    job = start_job("one_node", 2)  # which hands SIGTERM on, and ends in the tool's own code
    _, said = signal_in_the_midst(job, signal.SIGTERM, tmp_path / "run")
    assert job.returncode == EXIT_CODE, said
    assert "goes on from here" in said
    assert not (tmp_path / "run" / "model_final.pth").exists()


@pytest.mark.slow
@pytest.mark.parametrize("script", ["one_node", "several_nodes"])
def test_a_job_whose_time_is_up_saves_is_requeued_and_goes_on(script, two_processes, start_job, tmp_path):
    gpus = 2 if script == "one_node" else 1
    (tmp_path / "notes.hold").touch()
    job = start_job(script, gpus)
    _, said = signal_in_the_midst(job, signal.SIGUSR1, tmp_path / "run")
    assert job.returncode == 0, said
    assert "requeue" in (tmp_path / "notes").read_text()
    assert not (tmp_path / "run" / "model_final.pth").exists()
    assert "goes on from here" in said
    (tmp_path / "notes.hold").unlink()
    (tmp_path / "notes.nodes").unlink(missing_ok=True)
    job = start_job(script, gpus)
    _, said = job.communicate(timeout=400)
    assert job.returncode == 0, said
    assert_same_run(tmp_path / "run", two_processes)


def test_processes_of_another_launcher_are_not_counted_twice(monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ConfigError, match="--num-processes 4: torchrun has started 2"):
        run(CONFIG, "--num-processes", "4")


def test_options_of_the_launcher_are_checked(capsys):
    for wrong in (["--max-restarts", "1"], ["--num-processes", "0"], ["--num-processes", "2", "--max-restarts", "-1"]):
        with pytest.raises(SystemExit):
            run(CONFIG, *wrong)
    assert "expected at least 1" in capsys.readouterr().err
