"""Files are whole or not there."""

import errno
import os
import resource
import signal

import numpy as np
import pytest

from detkit.engine.hooks.writers import append_line
from detkit.utils import atomic_write
from detkit.utils.paths import naming_file
from detkit.visualization import write_picture


def test_a_failed_write_leaves_the_old_file_whole_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted():
        with atomic_write(path) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_new_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path, "w") as file:
        file.write("früh")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "früh"
    assert len(list(path.parent.iterdir())) == 1


def test_the_file_is_as_readable_as_an_ordinary_one(tmp_path):
    (tmp_path / "ordinary").write_text("")
    with atomic_write(tmp_path / "atomic") as file:
        file.write(b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_name_that_a_file_may_have_can_be_written(tmp_path):
    for name in ("x" * 255, "気" * 85):
        with atomic_write(tmp_path / name) as file:
            file.write(b"all")
        assert (tmp_path / name).read_bytes() == b"all"


@pytest.fixture
def small_files():
    """No file may grow beyond a kilobyte, as on a disk that is nearly full."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def write_whole(path):
    with atomic_write(path, "w") as file:
        file.write("x" * 5000)


@pytest.mark.parametrize(
    "write",
    [
        write_whole,
        lambda path: append_line(path, "x" * 5000),
        lambda path: write_picture(np.random.default_rng(0).integers(0, 255, (99, 99, 3)).astype(np.uint8), path),
    ],
    ids=["results", "metrics", "picture"],
)
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, small_files, write):
    path = tmp_path / "a.png"
    with pytest.raises(OSError, match=r"a\.png") as error:
        write(path)
    assert error.value.errno == errno.EFBIG
    assert not path.exists() or not path.stat().st_size  # no half of it is left
    assert {p.name for p in tmp_path.iterdir()} <= {"a.png"}


def test_an_error_that_names_a_file_keeps_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="other"), naming_file("a"):
        os.stat(tmp_path / "other")
    with pytest.raises(ValueError, match="mine"), naming_file("a"):
        raise ValueError("mine")
