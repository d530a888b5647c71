import itertools
import logging
import os
import re
import sys
import types
from pathlib import Path

import pytest

from detkit.utils import progress
from detkit.utils.progress import watched


def test_items_come_through_and_a_bar_is_drawn(capsys):
    assert list(watched([1, 2, 3], "counting", bar=True)) == [1, 2, 3]
    shown = capsys.readouterr().err
    assert "counting" in shown
    assert "/3" in shown


def test_a_log_gets_lines_now_and_then(capsys, caplog, monkeypatch):
    """On a clock that moves by a second whenever it is read."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])  # without those of a run in another test
    ticks = itertools.count()
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: float(next(ticks))))
    with caplog.at_level(logging.INFO, "detkit"):
        assert list(watched([1, 2, 3], "counting", bar=False, period=0.0)) == [1, 2, 3]
        assert list(watched(iter([1, 2]), "unsized", bar=False, period=0.0)) == [1, 2]
        assert list(watched([1, 2, 3], "short", bar=False)) == [1, 2, 3]
        assert list(watched([1, 2, 3], "hidden", show=False, period=0.0)) == [1, 2, 3]
    assert [r.getMessage() for r in caplog.records] == [
        "counting 1/3  0.5 it/s  eta 0:00:04",
        "counting 2/3  0.667 it/s  eta 0:00:02",
        "unsized 1  0.5 it/s",
    ]
    assert capsys.readouterr().err == ""


def test_only_what_knows_of_terminals_draws_bars():
    root = Path(progress.__file__).parents[1]
    files = [*root.rglob("*.py"), *(root.parent / "tools").rglob("*.py")]
    drawing = {path.name for path in files if re.search(r"^(from|import) tqdm", path.read_text("utf-8"), re.MULTILINE)}
    assert drawing == {"progress.py", "logging.py", "progress_bar.py"}


@pytest.mark.parametrize("columns", [0, 80])
def test_a_terminal_without_columns_gets_lines(columns, monkeypatch, capsys, caplog):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2, raising=False)
    monkeypatch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])
    with caplog.at_level(logging.INFO, "detkit"):
        assert list(watched(range(3), "counting", period=0.0)) == [0, 1, 2]
    assert ("counting 1/3" in caplog.text) == (columns == 0)
    assert ("counting" in capsys.readouterr().err) == (columns == 80)
