"""Damaged checkpoints are noticed and passed over; what cannot be written says so and damages nothing."""

import errno
import os
import resource

import numpy as np
import pytest
import torch
from torch import nn

from detkit.checkpoint import Checkpointer, load_weights, read_checkpoint, resume
from detkit.registry import DataError
from detkit.utils import atomic_write, remove_leftovers


class Counter:
    """A trainer's state: how many steps are done."""

    max_iter = 9

    def __init__(self):
        self.finished = 0

    def load_state_dict(self, state):
        self.finished = state["finished"]


def save(checkpointer, step, **options):
    state = {"finished": step, "pending": [], "ranks": []}
    return checkpointer.save(f"checkpoint_{step:07d}", nn.Linear(30, 30), trainer_state=state, **options)


@pytest.fixture
def three(tmp_path):
    checkpointer = Checkpointer(tmp_path / "run")
    paths = [save(checkpointer, step) for step in (1, 2, 3)]
    for path, step in zip(paths, (1, 2, 3)):
        os.utime(path, (step, step))
    return checkpointer, paths


def cut(path):
    path.write_bytes(path.read_bytes()[:-700])


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def zero_the_end(path):
    content = path.read_bytes()
    path.write_bytes(content[:2048] + bytes(len(content) - 2048))


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = pytest.mark.parametrize("damage", [cut, zero, zero_the_end, empty, flip])


@DAMAGES
def test_the_one_before_a_damaged_checkpoint_is_used(three, damage, caplog):
    checkpointer, paths = three
    damage(paths[2])
    trainer, model = Counter(), nn.Linear(30, 30)
    assert resume(checkpointer, model, trainer) == trainer.finished == 2
    assert torch.equal(model.weight, read_checkpoint(paths[1]).model["weight"])
    assert f"passed over a damaged checkpoint: {paths[2]}" in caplog.text
    damage(paths[1])
    assert resume(checkpointer, model, trainer) == 1
    damage(paths[0])
    with pytest.raises(DataError, match=r"none of the run's 3 checkpoints.*checkpoint_0000003"):
        resume(checkpointer, model, trainer)


@DAMAGES
def test_damaged_weights_are_an_error_that_names_the_file(tmp_path, damage):
    path = Checkpointer(tmp_path).save("model_final", nn.Linear(30, 30))
    damage(path)
    with pytest.raises(DataError, match=r"model_final\.pth: (cannot be read|is an empty file)"):
        load_weights(nn.Linear(30, 30), path)


def test_no_flipped_bit_changes_what_is_read(tmp_path):
    path = save(Checkpointer(tmp_path), 1, class_names=["a", "b"], config={"x": [1, None]})
    good, content = read_checkpoint(path), path.read_bytes()
    bits, noticed = np.random.default_rng(0).integers(0, 8, len(content)), 0
    for position in range(0, len(content), 29):
        damaged = bytearray(content)
        damaged[position] ^= 1 << bits[position]
        path.write_bytes(damaged)
        try:
            read = read_checkpoint(path)
        except DataError:
            noticed += 1
            continue
        assert all(torch.equal(read.model[name], value) for name, value in good.model.items()), position
        assert (read.class_names, read.config, read.trainer) == (good.class_names, good.config, good.trainer)
    assert noticed > len(content) / 29 / 2  # the others lie in what nobody reads, such as padding


def test_a_record_that_a_flipped_bit_makes_a_directory_is_noticed(tmp_path):
    path = Checkpointer(tmp_path).save("model_final", nn.Linear(30, 30))
    content = bytearray(path.read_bytes())
    header = content.index(b"PK\x01\x02")
    while b"data/0" not in content[header + 46 : header + 70]:
        header = content.index(b"PK\x01\x02", header + 4)
    content[header + 38] ^= 0x10  # the directory bit of the record's attributes
    path.write_bytes(content)
    with pytest.raises(DataError, match="data/0"):
        read_checkpoint(path)


@pytest.mark.skipif(not hasattr(torch.serialization, "set_crc32_options"), reason="of torch 2.6 and newer")
def test_a_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.ones(3)}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_checkpoint(tmp_path / "x.pth").model["weight"], torch.ones(3))


@pytest.mark.parametrize(
    "words", [b"checkpoint_0000009.pth\n", b"", b"\x00\x00\x00", b"\xff\xfe../..", b"a\nb", b"x" * 300]
)
def test_a_last_checkpoint_that_names_nothing_is_overlooked(three, words):
    checkpointer, paths = three
    (checkpointer.output_dir / "last_checkpoint").write_bytes(words)
    assert checkpointer.newest_first() == paths[::-1]
    assert resume(checkpointer, nn.Linear(30, 30), Counter()) == 3


def test_a_last_checkpoint_that_is_no_file_is_overlooked(three):
    checkpointer, paths = three
    last = checkpointer.output_dir / "last_checkpoint"
    for make in (lambda: last.symlink_to("nowhere"), lambda: last.symlink_to("last_checkpoint"), last.mkdir):
        last.unlink()
        make()
        assert checkpointer.newest_first() == paths[::-1]
    newest = save(checkpointer, 4)  # although a folder has the name of the file
    assert checkpointer.newest_first()[0] == newest
    newest.with_name("checkpoint_0000009.pth").symlink_to("gone.pth")
    newest.with_name("checkpoint_0000008.pth").mkdir()
    assert resume(checkpointer, nn.Linear(30, 30), Counter()) == 4


def test_checkpoints_of_an_older_kind_are_refused_with_what_to_do(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save("checkpoint_0000001", nn.Linear(1, 1), trainer_state={"finished": 2, "rng": []})
    with pytest.raises(DataError, match=r"older detkit.*train\.init_weights"):
        resume(checkpointer, nn.Linear(1, 1), Counter())


def test_leftovers_of_killed_writes_are_removed_and_nothing_else(tmp_path):
    with atomic_write(tmp_path / "model_final.pth") as file:
        left = tmp_path / (tmp_path / file.name).name
        (tmp_path / "copy").write_bytes(b"half")
    (tmp_path / "copy").rename(left)
    others = [tmp_path / name for name in ("notes.tmp", ".hidden.tmp", ".x.pth.12345678.tmp.bak", ".x.1234567z.tmp")]
    for path in others:
        path.write_text("mine")
    assert remove_leftovers(tmp_path) == [left]
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "model_final.pth"])


@pytest.fixture
def limit_files():
    """A file-size limit, as a full disk is hard to come by; Python ignores its signal, so writes fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1000, 3000])
def test_a_full_disk_names_file_and_sizes_and_leaves_what_was_there(three, limit_files, size):
    checkpointer, _ = three
    before = {path: path.read_bytes() for path in checkpointer.output_dir.iterdir()}
    limit_files(size)
    with pytest.raises(OSError, match="checkpoint_0000004") as error:
        save(checkpointer, 4)
    limit_files(resource.RLIM_INFINITY)
    assert error.value.errno == errno.EFBIG
    for words in ("checkpoint_0000004.pth: could not be written", "needs about 0.0 MB", "MB free", "File too large"):
        assert words in str(error.value)
    assert {path: path.read_bytes() for path in checkpointer.output_dir.iterdir()} == before
    assert resume(checkpointer, nn.Linear(30, 30), Counter()) == 3


def test_a_disk_that_is_full_when_the_file_is_closed_is_reported_alike(three, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("detkit.utils.paths.os.fsync", full)
    with pytest.raises(OSError, match=r"checkpoint_0000004\.pth: could not be written \(No space left on device\)"):
        save(three[0], 4)
    monkeypatch.undo()
    assert resume(three[0], nn.Linear(30, 30), Counter()) == 3


@pytest.mark.parametrize("state", [{"pending": [], "ranks": [], "optimizer": 3}, {"pending": [], "ranks": []}])
def test_a_training_state_of_another_make_is_refused_by_name(tmp_path, state):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save("checkpoint_0000001", nn.Linear(2, 2), trainer_state=state)
    with pytest.raises(
        DataError, match=r"checkpoint_0000001\.pth: its training state is not one of detkit.*init_weights"
    ):
        resume(checkpointer, nn.Linear(2, 2), Counter())
