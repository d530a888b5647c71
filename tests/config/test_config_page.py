"""docs/config.md is true: its files load, its code runs, its commands work, its messages are the real ones."""

import os
import re
import shlex
from pathlib import Path

import pytest

from detkit.commands import show
from detkit.config import ConfigError
from detkit.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
ROWS = [tuple(cell.strip(" `").replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:3])
        for line in PAGE.partition("## When something is wrong")[2].splitlines() if line.startswith("| `")]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the project's configs and the files that the page writes."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for kind, text in BLOCKS:
        if kind == "yaml" and (match := re.match(r"# file: (\S+)\n", text)):
            (tmp_path / match[1]).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", [text for kind, text in BLOCKS if kind == "python"])
def test_code_of_the_page_runs(folder, code):
    exec(compile(code, "docs/config.md", "exec"), {})


def commands() -> list[list[str]]:
    lines = "".join(text.replace("\\\n", " ") for kind, text in BLOCKS if kind == "bash").splitlines()
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command[2:]))
def test_commands_of_the_page_work(folder, command, capsys):
    assert command[:2] == ["detkit", "show"]
    assert show.main(command[2:]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(("override", "message"), ROWS)
def test_messages_of_the_page_are_the_real_ones(folder, override, message):
    with pytest.raises(ConfigError) as caught:
        load_experiment("configs/coco/mask_rcnn_R_50_FPN_1x.yaml", [override])
    assert str(caught.value).startswith(message)


def test_the_page_has_what_these_tests_look_for():
    kinds = [kind for kind, _ in BLOCKS]
    assert len(ROWS) == 11
    assert kinds.count("python") == 3
    assert len(commands()) == 6
    assert os.path.exists(ROOT / "docs" / "extending.md")
