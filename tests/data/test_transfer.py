"""Batches come out of loader processes as they went in, also where a machine has little to carry them in."""

import itertools
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detkit.data import Mapper, Shapes, ShuffleSampler, train_loader
from detkit.data.errors import SampleError, WorkerError, worker_error
from detkit.data.transfer import PackedBatch, remedy
from detkit.data.workers import quiet_about_the_run
from detkit.structures import BitMasks, Boxes, Instances, Sample

SHM_IS_FULL = "unable to allocate shared memory(shm) for file </torch_7_1>: No space left on device (28)"


def sample(number):
    torch.manual_seed(number)
    fields = {
        "boxes": Boxes(torch.rand(number, 4)),
        "classes": torch.arange(number),
        "masks": BitMasks(torch.rand(number, 5, 6) > 0.5),
        "weights": torch.rand(3, number).double().T,  # not contiguous
        "scores": torch.rand(number).to(torch.bfloat16),
    }
    maps = {"depth": torch.tensor(3.5), "none": torch.zeros(0, 6)}
    image = torch.randint(0, 256, (3, 5, 6), dtype=torch.uint8)
    return Sample(image, (5, 6), number, f"{number}.png", Instances((5, 6), **fields), maps)


def tensors(one):
    names = ("boxes", "classes", "masks", "weights", "scores")
    fields = {name: getattr(one.target, name) for name in names} | one.maps | {"image": one.image}
    return {
        name: (type(v), v.dtype, tuple(v.shape), v.as_subclass(torch.Tensor).tolist()) for name, v in fields.items()
    }


@pytest.mark.parametrize("shared", [True, False])
def test_a_batch_comes_out_as_it_went_in(shared, monkeypatch):
    if not shared:
        monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    batch = [sample(number) for number in (3, 0, 2)]
    packed = PackedBatch([*batch, "words"])
    assert packed.shortage == ("" if shared else SHM_IS_FULL)
    *got, words = packed.batch()
    assert words == "words"
    assert [tensors(one) for one in got] == [tensors(one) for one in batch]
    assert [(one.image_id, one.file_name, one.original_size) for one in got] == [
        (one.image_id, one.file_name, one.original_size) for one in batch
    ]
    got[0].image.zero_()  # may be written to


def refuse(tensor):
    raise RuntimeError(SHM_IS_FULL)


def read(dataset, workers, number=8):
    loader = train_loader(dataset, Mapper(dataset), ShuffleSampler(dataset, 2, 0, 0, 1), workers)
    return [one.image for batch in itertools.islice(loader, number) for one in batch]


def test_without_shared_memory_batches_are_the_same_and_a_warning_says_how_to_widen_it(monkeypatch, caplog):
    dataset = Shapes(num_images=6, image_size=(48, 64))
    expected = read(dataset, 0)
    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)  # before the workers are forked
    with caplog.at_level(logging.WARNING):
        got = read(dataset, 2)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert caplog.text.count("come through pipes") == caplog.text.count("--shm-size=8g") == 1


LIMITED = """
import itertools, resource, sys
from detkit.data import Mapper, Shapes, ShuffleSampler, train_loader
from detkit.data.errors import WorkerError
name, value, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if name == "RLIMIT_AS":
    value += int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(getattr(resource, name), (value, value))
dataset = Shapes(num_images=6, image_size=(400, 600))
try:
    batches = list(itertools.islice(
        train_loader(dataset, Mapper(dataset), ShuffleSampler(dataset, 4, 0, 0, 1), workers), 12
    ))
    print(len(batches), "batches")
except WorkerError as error:
    print("WorkerError:", error)
"""


def limited(name, value, workers):
    arguments = [sys.executable, "-c", LIMITED, name, str(value), str(workers)]
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=240, env=environment)
    return done.stdout.strip().splitlines()[-1]


def test_few_open_files_are_enough():
    assert limited("RLIMIT_NOFILE", 64, 2) == "12 batches"


def test_too_few_open_files_for_the_workers_are_named():
    words = limited("RLIMIT_NOFILE", 32, 8)
    assert "the limit of open files is 32: raise it (ulimit -n 4096)" in words
    assert "lower data.num_workers, now 8" in words


def test_little_address_space_ends_in_words_or_batches():
    words = limited("RLIMIT_AS", 48 << 20, 2)
    said = ("ulimit -v", "limit of processes and threads", "want of memory")
    assert words == "12 batches" or any(limit in words for limit in said), words


def test_a_batch_that_cannot_be_sent_ends_the_wait_for_it(monkeypatch, capfd):
    def fail(self):
        raise MemoryError

    monkeypatch.setattr(PackedBatch, "__reduce__", fail)  # which is called where the batch is sent, in the worker
    dataset = Shapes(num_images=2, image_size=(40, 40))
    loader = train_loader(dataset, Mapper(dataset), ShuffleSampler(dataset, 2, 0, 0, 1), 1)
    with pytest.raises(WorkerError, match=r"a loader process died .* want of memory"):
        next(iter(loader))
    assert (
        "a loader process cannot send a batch (MemoryError: ). memory is short (ulimit -v is" in capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "--shm-size"),
        (OSError(30, "Read-only file system"), "--shm-size"),
        (OSError(24, "Too many open files"), "ulimit -n 4096"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n 4096"),
        (RuntimeError("can't start new thread"), "--pids-limit"),
        (RuntimeError("unable to mmap 64 bytes from file: Cannot allocate memory (12)"), "ulimit -v"),
        (MemoryError(), "ulimit -v"),
    ],
)
def test_the_limit_that_was_met_is_named(error, words):
    assert words in remedy(error)
    assert isinstance(worker_error(error, 2), WorkerError)
    assert worker_error(error, 0) is None


def test_errors_of_samples_are_no_errors_of_the_machine():
    assert remedy(ValueError("x")) == ""
    assert worker_error(SampleError("a.png: flip failed with MemoryError: cannot allocate"), 2) is None


def test_a_run_that_is_gone_is_no_error_of_its_loader_processes(capsys):
    for error in (EOFError(), ConnectionResetError(104, "reset"), ValueError("of its own")):
        quiet_about_the_run(type(error), error, None)
    assert capsys.readouterr().err.strip() == "ValueError: of its own"
