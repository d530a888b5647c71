"""Console and log.txt; the environment report."""

import logging

import pytest
import torch

from detkit.utils import environment_report, setup_logging
from detkit.utils.logging import optional_output


@pytest.fixture(autouse=True)
def _restore():
    root, package = logging.getLogger(), logging.getLogger("detkit")
    handlers, levels = root.handlers[:], (root.level, package.level)
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(levels[0])
    package.setLevel(levels[1])
    logging.captureWarnings(False)


def test_records_reach_console_and_file_once(tmp_path, capsys):
    setup_logging(tmp_path / "other")
    setup_logging(tmp_path / "run")  # replaces the first one's handlers
    logging.getLogger("detkit.engine").info("hello")
    logging.getLogger("detkit.engine").debug("detail")
    logging.getLogger("my_head").warning("careful")
    console = capsys.readouterr().err
    assert console.count("hello") == console.count("careful") == 1
    assert "detail" not in console
    text = (tmp_path / "run" / "log.txt").read_text()
    assert [text.count(word) for word in ("hello", "detail", "careful")] == [1, 1, 1]
    assert (tmp_path / "other" / "log.txt").read_text() == ""


def test_only_rank_zero_talks(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("detkit.utils.distributed.rank", lambda: 3)
    setup_logging(tmp_path)
    logging.getLogger("detkit").info("hello")
    assert capsys.readouterr().err == ""
    assert "hello" in (tmp_path / "log_rank3.txt").read_text()


def test_environment_report_names_versions_and_threads():
    report = environment_report()
    assert torch.__version__ in report
    assert f"{torch.get_num_threads()} within" in report
    assert "cpu" in report


def test_an_error_in_optional_output_is_logged_and_goes_no_further(caplog):
    with optional_output("the pictures"):
        raise OSError("no space left")
    assert "the pictures could not be made" in caplog.text
    assert "no space left" in caplog.text
    for error in (SystemExit("no display"), BaseException("a panic")):
        with optional_output("the curves"):
            raise error
        assert f"{type(error).__name__}: {error}" in caplog.text
    with pytest.raises(KeyboardInterrupt), optional_output("the pictures"):
        raise KeyboardInterrupt


def test_a_log_that_cannot_be_written_is_said_once(tmp_path, capsys):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    setup_logging(tmp_path)
    for _ in range(3):
        logging.getLogger("detkit").info("hello")
    shown = capsys.readouterr().err
    assert shown.count("log.txt: lines are missing") == 1
    assert shown.count("hello") == 3
    assert "Traceback" not in shown
