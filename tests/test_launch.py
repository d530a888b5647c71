"""The launcher: threads, exit codes, whose error is shown, and signals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detkit import command_line
from detkit.config import ConfigError
from detkit.experiment import run, torch_device
from detkit.launch import launch
from detkit.utils import distributed
from detkit.utils.environment import cores

SCRIPT = """
import os, signal, sys, time
from pathlib import Path

from detkit import command_line
from detkit.registry import DataError

def main():
    what, folder = sys.argv[1:]
    rank = os.environ["RANK"]
    Path(folder, f"threads{rank}").write_text(os.environ["OMP_NUM_THREADS"])
    # The process that fails first ends the others, which may still be starting.
    while not (Path(folder, "threads0").exists() and Path(folder, "threads0").read_text()):
        time.sleep(0.05)
    if what == "error" and rank == "1":
        raise DataError("image 7 is torn")
    if what == "killed" and rank == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "waits":
        signal.signal(signal.SIGUSR1, lambda *_: (Path(folder, f"told{rank}").touch(), sys.exit(0)))
        Path(folder, f"ready{rank}").touch()
    if what in ("saves", "differs"):
        told = []
        signal.signal(signal.SIGTERM, lambda *_: told.append(1))
        Path(folder, f"ready{rank}").touch()
        while not told:
            time.sleep(0.05)
        return 75 if what == "saves" or rank == "0" else 3
    if what != "nothing":
        time.sleep(200)
    return 0

sys.exit(command_line.run(main))
"""


@pytest.fixture
def script(tmp_path) -> str:
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    return str(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("nothing", 0, ""),
        ("error", 2, "rank 1 failed first: DataError: image 7 is torn"),
        ("killed", 128 + 9, "SIGKILL"),
    ],
)
def test_the_first_error_is_shown_and_ends_all(what, code, words, script, tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch([script], [what, str(tmp_path)], 2) == code
    assert words in capfd.readouterr().err
    assert (tmp_path / "threads0").read_text() == str(max(cores() // 2, 1))
    assert not {"OMP_NUM_THREADS", command_line.EXIT_CODES} & set(os.environ)


def signalled(script: str, what: str, folder: Path, number: signal.Signals) -> tuple[int, str]:
    """The launcher's exit code and words, where it gets a signal when both processes are ready for it."""
    code = (
        f"from detkit.launch import launch; import sys; sys.exit(launch([{script!r}], [{what!r}, {str(folder)!r}], 2))"
    )
    environment = {**os.environ, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "200"}  # as long as a loaded machine may need
    launcher = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment)
    for _ in range(3000):
        if (folder / "ready0").exists() and (folder / "ready1").exists():
            break
        with pytest.raises(subprocess.TimeoutExpired):
            launcher.wait(0.1)
    launcher.send_signal(number)
    _, said = launcher.communicate(timeout=240)
    return launcher.returncode, said


@pytest.mark.slow
@pytest.mark.parametrize(("what", "code"), [("saves", 75), ("differs", 128 + signal.SIGTERM)])
def test_a_signal_ends_in_the_code_with_which_all_processes_left(what, code, script, tmp_path):
    returned, said = signalled(script, what, tmp_path, signal.SIGTERM)
    assert returned == code, said


def test_the_exit_codes_that_count_are_those_of_the_last_start(tmp_path, monkeypatch):
    assert command_line.exit_codes(tmp_path) == []
    command_line.leave_exit_code(7)  # nobody asks
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv(command_line.EXIT_CODES, str(tmp_path))
    for start, rank, code in (("9", "0", 75), ("9", "1", 75), ("10", "1", 2)):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", start)
        monkeypatch.setenv("RANK", rank)
        command_line.leave_exit_code(code)
        assert command_line.exit_codes(tmp_path)[-1] == code
    assert command_line.exit_codes(tmp_path) == [2]
    (tmp_path / "10.0").write_text("")  # killed in the middle of it
    assert command_line.exit_codes(tmp_path) == [2]
    monkeypatch.setenv(command_line.EXIT_CODES, str(tmp_path / "gone"))
    command_line.leave_exit_code(75)  # whose launcher is gone


@pytest.mark.slow
def test_the_signal_of_slurm_reaches_every_process(script, tmp_path):
    code, said = signalled(script, "waits", tmp_path, signal.SIGUSR1)
    assert code == 0, said  # as both left
    assert (tmp_path / "told0").exists()
    assert (tmp_path / "told1").exists()


@pytest.mark.slow
def test_a_system_without_slurms_signal_can_launch(script, tmp_path, monkeypatch):
    monkeypatch.delattr(signal, "SIGUSR1")
    assert launch([script], ["nothing", str(tmp_path)], 1) == 0


def test_numbers_that_make_no_sense_are_refused():
    for processes, restarts in ((0, 0), (1, -1)):
        with pytest.raises(ValueError, match="at least 1 process"):
            launch(["x.py"], [], processes, restarts)


def test_a_launch_is_named_by_its_run_id_or_else_by_the_launcher(monkeypatch):
    assert distributed.launch_id() == ""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert str(os.getppid()) in distributed.launch_id()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert str(os.getppid()) in distributed.launch_id()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-7")
    assert distributed.launch_id() == "job-7"


def test_a_run_goes_on_by_itself_only_within_its_own_launch(tmp_path, monkeypatch):
    (tmp_path / "launched_by").write_text("")
    assert not run.is_restarted(tmp_path), "without a launcher nothing is started again"
    monkeypatch.setattr(distributed, "launched", lambda: True)
    monkeypatch.setattr(distributed, "launch_id", lambda: "job-7")
    assert not run.is_restarted(tmp_path / "nowhere")
    for claim, again in (("job-6", False), ("job-7", True)):
        (tmp_path / "launched_by").write_text(claim)
        assert run.is_restarted(tmp_path) is again


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"LOCAL_RANK": None}, "WORLD_SIZE is '2', but there is no LOCAL_RANK"),
        ({"MASTER_ADDR": None, "MASTER_PORT": None}, "no MASTER_ADDR, MASTER_PORT: torchrun"),
        ({"WORLD_SIZE": "", "RANK": None}, "no RANK"),
        ({"RANK": "2"}, "RANK: expected less than WORLD_SIZE, 2, got '2'"),
        ({"RANK": "-1"}, "RANK: expected a number, got '-1'"),
        ({"MASTER_PORT": "${PORT}"}, "MASTER_PORT: expected a number"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE: expected a number"),
    ],
)
def test_processes_started_by_hand_neither_train_alone_nor_wait_for_ever(change, words, monkeypatch):
    whole = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in whole.items():
        monkeypatch.setenv(name, value)
    run.check_launch()
    for name, value in change.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=words):
        run.check_launch()


def test_processes_that_differ_are_told_where(monkeypatch):
    run.check_alike("config", "a: 1")
    texts = ["model:\n  depth: 50\n", "model:\n  depth: 50\n", "model:\n  depth: 101\n"]
    monkeypatch.setattr(distributed, "all_gather_object", lambda _: texts)
    with pytest.raises(ConfigError, match="config: rank 2 has 'depth: 101' where rank 0 has 'depth: 50'"):
        run.check_alike("config", texts[0])


def test_every_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for local_rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        assert torch_device("auto") == torch_device("cuda") == torch.device("cuda", int(local_rank))
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="process 3 on a machine that has 2"):
        torch_device("auto")
