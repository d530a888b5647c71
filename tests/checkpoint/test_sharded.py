"""Sharded checkpoints: a file a process, put together by any program, and checked."""

from pathlib import Path

import pytest
import torch
from processes import in_processes

from detkit.checkpoint import Checkpointer, read_checkpoint, resume
from detkit.checkpoint.sharded import read_sharded, write_sharded
from detkit.registry import DataError

FULL = torch.arange(15.0).reshape(5, 3)


def write(folder, slices, **more):
    """A checkpoint as ``len(slices)`` processes write it, each of which has some rows of the tensor."""
    folder.mkdir()
    note = {"sharded tensor": (0, 0, tuple(FULL.shape))}
    content = {"model": {"w": note, "b": torch.ones(2)}, "trainer": {"mean": [note, (1, "x")]}}
    for rank, rows in enumerate(slices):
        written = {"shards": [FULL[rows].clone()], "content": None if rank else content, **more}
        torch.save(written, folder / f"shard_{rank}_of_{len(slices)}.pth")
    return folder


@pytest.mark.parametrize("slices", [[slice(0, 5)], [slice(0, 3), slice(3, 5)], [slice(0, 3), slice(3, 5), slice(5, 5)]])
def test_shards_of_any_number_of_processes_make_the_full_tensors(tmp_path, slices):
    read = read_sharded(write(tmp_path / "checkpoint_0000001.sharded", slices))
    assert torch.equal(read["model"]["w"], FULL)
    assert torch.equal(read["model"]["b"], torch.ones(2))
    assert torch.equal(read["trainer"]["mean"][0], FULL)
    assert read["trainer"]["mean"][1] == (1, "x")


def test_a_missing_or_damaged_or_foreign_shard_is_noticed(tmp_path):
    folder = write(tmp_path / "checkpoint_0000001.sharded", [slice(0, 3), slice(3, 5)])
    shard = folder / "shard_1_of_2.pth"
    content = shard.read_bytes()
    flipped = bytearray(content)
    flipped[content.index(FULL[3:5].numpy().tobytes())] ^= 1
    for damaged in (flipped, content[:-10], (folder / "shard_0_of_2.pth").read_bytes(), b""):
        shard.write_bytes(damaged)
        with pytest.raises(DataError, match="again"):
            read_sharded(folder)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard_1_of_2\.pth"):
        read_sharded(folder)
    (folder / "shard_0_of_2.pth").unlink()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model_final.pth").touch()
    with pytest.raises(DataError, match="is the folder of a run; its weights are"):
        read_sharded(tmp_path / "run")
    with pytest.raises(DataError, match="dcp_to_torch"):
        read_checkpoint(folder)


def test_shards_of_two_checkpoints_are_not_mixed(tmp_path):
    folders = [write(tmp_path / f"{n}.sharded", [slice(0, 3), slice(3, 5)], number=str(n)) for n in (1, 2)]
    assert torch.equal(read_sharded(folders[0])["model"]["w"], FULL)
    (folders[1] / "shard_1_of_2.pth").replace(folders[0] / "shard_1_of_2.pth")
    with pytest.raises(DataError, match="different times"):
        read_sharded(folders[0])


@pytest.mark.parametrize("byte", range(0, 64, 7))
def test_a_flipped_bit_in_the_file_that_says_where_shards_go_is_refused(tmp_path, byte):
    folder = write(tmp_path / "1.sharded", [slice(0, 3), slice(3, 5)])
    path = folder / "shard_0_of_2.pth"
    content = bytearray(path.read_bytes())
    start = content.index(b"sharded tensor")  # the note of a tensor
    content[start + byte] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_sharded(folder)


def test_a_sharded_checkpoint_of_an_earlier_detkit_is_refused_with_what_to_do(tmp_path):
    folder = tmp_path / "checkpoint_0000001.parts"
    folder.mkdir()
    (folder / "index.json").write_text("{}")
    with pytest.raises(DataError, match=r"earlier detkit.*checkpoint_in_parts=false.*init_weights"):
        resume(Checkpointer(tmp_path), torch.nn.Linear(1, 1), None)


def test_the_same_checkpoint_is_written_again_and_leftovers_go(tmp_path):
    folder = tmp_path / "checkpoint_0000001.sharded"
    for value in (1, 2):
        write_sharded({"value": value}, folder)
        assert read_sharded(folder) == {"value": value}
        assert list(tmp_path.iterdir()) == [folder]
        (tmp_path / ".checkpoint_0000001.sharded.unfinished").mkdir()
        (tmp_path / ".checkpoint_0000000.sharded.old.unfinished").mkdir()


def without_a_folder(rank: int, folder: str) -> None:
    with pytest.raises(OSError, match="process 0: Not a directory"):
        write_sharded({"value": 1}, Path(folder) / "file" / "checkpoint_0000001.sharded")


@pytest.mark.slow
def test_no_process_waits_for_one_that_cannot_write(tmp_path):
    (tmp_path / "file").touch()
    in_processes(without_a_folder, str(tmp_path))
