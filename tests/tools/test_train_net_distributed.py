"""train_net in several processes: on one machine, on two, and with one that dies."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_detector import CONFIG, TINY

ROOT = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(ROOT / "tools"))
import train_net  # noqa: E402

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


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """The run of two processes on one machine, undisturbed."""
    folder = tmp_path_factory.mktemp("straight")
    assert run(CONFIG, "--num-processes", "2", f"train.output_dir={folder}") == 0
    return folder


def run(config: Path, *arguments: str) -> int:
    return train_net.main(["--config-file", str(config), *arguments, *SHORT])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def assert_same_run(folder: Path, other: Path) -> None:
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    figures = [json.loads((f / "evaluation.json").read_text()) for f in (folder, other)]
    assert [figures[0][task] for task in ("box", "mask")] == [figures[1][task] for task in ("box", "mask")]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


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


@pytest.mark.slow
def test_two_machines_train_as_one_machine_with_two_processes(two_processes, tmp_path):
    """Two launchers that find each other on loopback."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-id=one-job"]
    command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--local-addr=127.0.0.1"]
    command += ["tools/train_net.py", "--config-file", str(CONFIG), *SHORT]
    command += [f"train.output_dir={tmp_path}/run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert sum("The run is in" in out for out, _ in said) == 1
    assert sum("INFO" in err for _, err in said) == 1, "rank 0 alone talks"
    assert_same_run(tmp_path / "run", two_processes)


def test_options_of_the_launcher_are_checked(capsys):
    for wrong in (["--max-restarts", "1"], ["--num-processes", "0"], ["--num-processes", "2", "--max-restarts", "-1"]):
        with pytest.raises(SystemExit):
            run(CONFIG, *wrong)
    assert "expected at least 1" in capsys.readouterr().err
