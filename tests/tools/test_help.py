"""``--help``, and an answer to a mistake on the command line, do without torch, which takes seconds to import."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from comparisons.torchvision_reference import Settings

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted((ROOT / "tools").glob("*.py"))
HEAVY = ("torch", "torchvision", "numpy", "matplotlib", "fvcore", "iopath", "omegaconf", "PIL", "pycocotools")
RUN = """
import os, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    loaded = [name for name in {heavy} if name in sys.modules]
    print(f"loaded {{loaded}}, exit code {{end.code}}")
"""


def answer(tool, *arguments):
    command = [sys.executable, "-c", RUN.format(heavy=HEAVY), str(tool), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_help_imports_nothing_heavy(tool):
    done = answer(tool, "--help")
    assert done.stdout.startswith("usage: ")
    assert done.stdout.rstrip().endswith("loaded [], exit code 0")


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_an_unknown_option_is_refused_as_fast(tool):
    done = answer(tool, "--no-such-option")
    assert "usage: " in done.stderr
    assert done.stdout.strip() == "loaded [], exit code 2"


def test_each_benchmarks_help_imports_nothing_heavy():
    done = answer(ROOT / "tools" / "benchmark.py", "infer", "--help")
    assert "--precision" in done.stdout
    assert done.stdout.rstrip().endswith("loaded [], exit code 0")


def test_the_options_of_a_comparison_are_its_settings():
    sys.path.insert(0, str(ROOT / "tools"))
    import compare_checkpoint

    assert list(compare_checkpoint.SETTINGS) == [field.name for field in dataclasses.fields(Settings)]


@pytest.mark.parametrize("line", ["predict --run ~/run a.png --output", "plot_metrics ~/run --output"])
def test_a_tilde_is_the_home_folder_in_what_a_tool_is_told(line, monkeypatch, tmp_path, capsys):
    argv = line.split()
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.setenv("HOME", str(tmp_path))
    tool = importlib.import_module(argv[0])
    assert str(tool.parse_arguments([*argv[1:], "~/out"]).output) == f"{tmp_path}/out"
    with pytest.raises(SystemExit):
        tool.parse_arguments([*argv[1:], "~no_such_user/out"])
    assert "there is no user 'no_such_user'" in capsys.readouterr().err
