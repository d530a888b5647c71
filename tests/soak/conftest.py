"""Paths of the helpers of other folders' tests, and the report of a soak, which is printed whatever its outcome."""

import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
FOLDERS = [TESTS, TESTS / "commands", TESTS / "checkpoint", TESTS / "soak"]
sys.path[:0] = [str(folder) for folder in FOLDERS if str(folder) not in sys.path]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """For the server that processes are forked from, which takes its paths from the environment."""
    paths = [TESTS.parent, *FOLDERS, os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", ":".join(map(str, paths)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def report(capsys):
    """Prints lines past pytest's capture."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}", end="", flush=True)

    return say
