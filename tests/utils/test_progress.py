import itertools
import logging
import types

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
        "counting 1/3  eta 0:00:04",
        "counting 2/3  eta 0:00:02",
        "unsized 1",
    ]
    assert capsys.readouterr().err == ""
