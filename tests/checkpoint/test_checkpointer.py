"""Checkpoints: atomic, pruned, readable without unpickling, and errors that name the fix."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from detkit.checkpoint import Checkpointer, read_checkpoint
from detkit.registry import DataError


def test_what_is_written_is_read(tmp_path):
    model = nn.Linear(2, 3)
    config = {"solver": {"lr": 0.1, "milestones": [0.5, None]}, "imports": []}
    path = Checkpointer(tmp_path / "run").save("model_final", model, config=config, class_names=("a", "b"))
    raw = torch.load(path, weights_only=True)
    assert set(raw) == {"model", "class_names", "config", "detkit_version"}
    checkpoint = read_checkpoint(path)
    assert checkpoint.class_names == ("a", "b")
    assert checkpoint.config == config
    assert checkpoint.trainer is None
    assert torch.equal(checkpoint.model["weight"], model.weight)
    assert Checkpointer(tmp_path / "run").latest() is None  # weights only are nothing to resume


def test_keeps_the_newest_also_above_leftovers_with_higher_numbers(tmp_path):
    leftover = tmp_path / "checkpoint_0099999.pth"
    torch.save({}, leftover)
    os.utime(leftover, (1, 1))
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step in (9, 19, 29):
        last = checkpointer.save(f"checkpoint_{step:07d}", nn.Linear(1, 1), trainer_state={"step": step})
        os.utime(last, (step, step))
    checkpointer.save("model_final", nn.Linear(1, 1))
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == [
        "checkpoint_0000019.pth",
        "checkpoint_0000029.pth",
        "model_final.pth",
    ]
    assert checkpointer.latest() == last
    last.unlink()
    assert checkpointer.latest().name == "checkpoint_0000019.pth"


def test_a_checkpoint_that_cannot_be_removed_ends_no_training(tmp_path, monkeypatch, caplog):
    checkpointer = Checkpointer(tmp_path, keep=1)
    first = checkpointer.save("checkpoint_0000001", nn.Linear(1, 1), trainer_state={})

    def in_use(path, missing_ok=False):
        raise PermissionError("in use")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", in_use)
        checkpointer.save("checkpoint_0000002", nn.Linear(1, 1), trainer_state={})
    assert f"{first}: is not kept any more and cannot be removed (in use)" in caplog.text
    checkpointer.save("checkpoint_0000003", nn.Linear(1, 1), trainer_state={})
    assert [path.name for path in tmp_path.glob("*.pth")] == ["checkpoint_0000003.pth"]


def test_a_failed_write_changes_nothing(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path)
    first = checkpointer.save("checkpoint_0000001", nn.Linear(1, 1), trainer_state={})
    before = first.read_bytes()

    def full_disk(content, file):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    for name in ("checkpoint_0000001", "checkpoint_0000002"):
        with pytest.raises(OSError, match="no space"):
            checkpointer.save(name, nn.Linear(1, 1), trainer_state={})
    assert first.read_bytes() == before
    assert checkpointer.latest() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint_0000001.pth", "last_checkpoint"]


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("detkit.utils.distributed.is_main", lambda: False)
    Checkpointer(tmp_path / "run").save("model_final", nn.Linear(1, 1))
    assert not (tmp_path / "run").exists()


class _Harmful:
    def __reduce__(self):
        return os.mkdir, (os.environ["HARM"],)


def test_a_file_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HARM", str(tmp_path / "harm"))
    torch.save({"model": {"weight": _Harmful()}}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"model": _Harmful()}, protocol=2))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(DataError, match=rf"{name}.*never unpickled"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_truncated_file_names_itself(tmp_path, share):
    path = Checkpointer(tmp_path).save("model_final", nn.Linear(30, 30))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"model_final\.pth.*(again|torch\.save)"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "got list"),
        ({}, "is empty"),
        ({"epoch": 3}, "'epoch' is not a tensor"),
        ({"model": {"a": 1}}, "'a' is not a tensor"),
    ],
)
def test_what_is_no_checkpoint_says_so(tmp_path, content, words):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(DataError, match=rf"x\.pth.*{words}"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.pth: there is no such file"):
        read_checkpoint(tmp_path / "gone.pth")


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 1}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_plain_state_dicts_of_wrapped_models_are_taken(tmp_path, wrap, prefix):
    model = nn.Linear(2, 2)
    torch.save(wrap({f"{prefix}{k}": v for k, v in model.state_dict().items()}), tmp_path / "x.pth")
    assert list(read_checkpoint(tmp_path / "x.pth").model) == ["weight", "bias"]


def test_keep_is_checked():
    with pytest.raises(ValueError, match="keep"):
        Checkpointer("x", keep=0)


FULL_DISK = """
import os, resource, signal, sys, torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from detkit.checkpoint import Checkpointer

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
model = torch.nn.Linear(300, 1000)
fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
checkpointer = Checkpointer(sys.argv[1], sharded=True)
before = checkpointer.save("checkpoint_0000001", model, trainer_state={"step": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpointer.save("checkpoint_0000003", model, trainer_state={"step": 3})
except OSError as error:
    print(error)
print(checkpointer.newest_first() == [before])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files there")
def test_a_full_disk_is_named_where_checkpoints_are_sharded(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    said, unchanged = done.stdout.splitlines()
    assert "checkpoint_0000003.sharded: could not be written" in said
    assert "It needs about 1.2 MB" in said
    assert unchanged == "True"
    (sharded,) = tmp_path.glob("checkpoint_*.sharded")
    assert read_checkpoint(sharded).model["weight"].shape == (1000, 300)
