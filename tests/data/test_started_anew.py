"""Loader processes that are not forked, as on macOS and Windows: scripts, notebooks, and what cannot be copied."""

import multiprocessing
import os
import subprocess
import sys

import pytest

from detkit.experiment.run import check_launch
from detkit.registry import ConfigError

BEGIN = """
import multiprocessing, itertools, threading
import numpy as np
multiprocessing.set_start_method("spawn", force=True)
from detkit.data import Mapper, Shapes, ShuffleSampler, train_loader

class Own(Shapes):
    def __init__(self, part=None):
        super().__init__(num_images=4, image_size=(32, 32))
        self.more = np.zeros(10**6), part  # more than a pipe holds

def read(dataset):
    loader = train_loader(dataset, Mapper(dataset), ShuffleSampler(dataset, 2, 0, 0, 1), num_workers=1)
    print("read", [len(batch) for batch in itertools.islice(loader, 2)])
"""
GUARDED = 'if __name__ == "__main__":\n    '


def result(*command: str, **options: str) -> tuple[int, str]:
    """Exit code and output; a script that waits for ever is an error."""
    settings = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "capture_output": True, "text": True, "timeout": 240}
    done = subprocess.run([sys.executable, *command], **settings, **options)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (f"{GUARDED}read(Own())", 0, "read [2, 2]"),
        ("read(Own())", 1, 'if __name__ == "__main__":\nor set data.num_workers=0'),
        (f"{GUARDED}read(Own(threading.Lock()))", 1, "there is none of a part of these (cannot pickle '_thread.lock'"),
        (f"{GUARDED}read(Own(lambda: 0))", 1, "there is none of a part of these (Can't pickle"),
    ],
    ids=["guarded", "unguarded", "lock", "lambda"],
)
def test_a_script(tmp_path, end, code, words):
    script = tmp_path / "script.py"
    script.write_text(BEGIN + end + "\n")
    ended, said = result(str(script))
    assert ended == code, said
    assert words in said


def test_a_notebook():
    """Its ``__main__`` has no file, as that of ``python -c``."""
    ended, said = result("-c", f"{BEGIN}\nread(Own())")
    assert ended == 1
    assert "Own is defined in a notebook or at a prompt" in said
    ended, said = result("-c", f"{BEGIN}\nread(Shapes(num_images=4, image_size=(32, 32)))")
    assert ended == 0, said
    assert "read [2, 2]" in said


def test_nothing_is_trained_while_a_script_is_imported(monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(ConfigError, match="must not do its work again"):
        check_launch()
