"""``--help``, and an answer to a mistake on the command line, do without torch, which takes seconds to import."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import detkit
from detkit.commands.parsers import COMMANDS, ENGINES, LABEL_FORMATS
from detkit.commands.parsers.compare import SETTINGS
from detkit.commands.parsers.export import SUFFIXES
from detkit.comparisons.torchvision_reference import Settings
from detkit.data.formats import LABEL_WRITERS
from detkit.export import FORMS

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted((ROOT / "tools").glob("*.py"))
HEAVY = ("torch", "torchvision", "numpy", "matplotlib", "fvcore", "iopath", "omegaconf", "PIL", "pycocotools")
RUN = f"""
import os, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
try:
    if sys.argv[0] == "detkit":
        runpy.run_module("detkit", run_name="__main__")
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    loaded = [name for name in {HEAVY} if name in sys.modules]
    print(f"loaded {{loaded}}, exit code {{end.code}}")
"""


def answer(*command):
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    "start", [*([t] for t in TOOLS), *(["detkit", *words.split()] for words in COMMANDS)], ids=lambda s: str(s[-1])
)
def test_help_and_the_refusal_of_an_unknown_option_import_nothing_heavy(start):
    """And say how the command was started, in the usage and in every example."""
    done = answer(*start, "--help")
    began = " ".join(start) if start[0] == "detkit" else str(start[0])
    assert done.stdout.startswith("usage: ")
    assert began.removeprefix(f"{ROOT}/") in done.stdout.splitlines()[0] or start[0].stem == "benchmark"
    assert "examples:" in done.stdout
    assert done.stdout.rstrip().endswith("loaded [], exit code 0")
    done = answer(*start, "--no-such-option")
    assert "usage: " in done.stderr
    assert done.stdout.strip() == "loaded [], exit code 2"


@pytest.mark.parametrize(("typed", "meant"), [("--weigths", "--weights"), ("--val_fraction", "--val-fraction")])
def test_a_mistyped_option_is_told_from_the_nearest(typed, meant):
    assert f"unrecognized arguments: {typed}; did you mean {meant}?" in answer("detkit", "train", typed).stderr


def test_an_option_for_what_the_config_sets_is_answered_with_the_way_to_set_it():
    assert "key.path=value, such as train.output_dir=FOLDER" in answer("detkit", "train", "--output", "x").stderr


def test_each_tool_is_a_command():
    assert {tool.stem for tool in TOOLS} - {"benchmark"} == {c.tool for c in COMMANDS.values()} - {""}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_commands_are_listed_at_once(arguments):
    done = answer("detkit", *arguments)
    assert all(f"  {words} " in done.stdout for words in COMMANDS)
    assert done.stdout.rstrip().endswith(f"loaded [], exit code {0 if arguments else 2}")


def test_a_group_of_commands_is_listed_too():
    said = answer("detkit", "visualize", "--help").stdout
    assert "  visualize data " in said
    assert "  doctor " not in said


def test_help_may_be_the_first_word():
    assert answer("detkit", "help", "plot").stdout.startswith("usage: detkit plot")
    assert "  visualize data " in answer("detkit", "help", "visualize").stdout


def test_weights_are_no_config(capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("detkit.commands.parsers.evaluate").parse_arguments(["run/model_final.pth"])
    assert (
        "holds weights; give a run's folder, or a CONFIG and --weights run/model_final.pth" in capsys.readouterr().err
    )


def test_the_version_is_detkits():
    assert f"detkit {detkit.__version__}\n" in answer("detkit", "--version").stdout


@pytest.mark.parametrize(
    ("wrong", "meant"), [("tarin", "train"), ("visualise", "visualize"), ("weights convrt", "weights convert")]
)
def test_an_unknown_command_is_answered_with_the_nearest(wrong, meant):
    done = answer("detkit", *wrong.split())
    assert f"there is no command '{wrong}'. Did you mean '{meant}'?" in done.stderr
    assert done.stdout.strip() == "loaded [], exit code 2"


def test_each_benchmarks_help_imports_nothing_heavy():
    done = answer(ROOT / "tools" / "benchmark.py", "infer", "--help")
    assert "--precision" in done.stdout
    assert done.stdout.rstrip().endswith("loaded [], exit code 0")


def test_the_options_of_a_comparison_are_its_settings():
    assert list(SETTINGS) == [field.name for field in dataclasses.fields(Settings)]


def test_help_names_what_is_registered():
    """Without importing it."""
    own = ", or one of your own"
    assert f"{', '.join(LABEL_WRITERS.by_key())}{own}" == LABEL_FORMATS
    assert f"auto, {', '.join(FORMS.by_key())}{own}" == ENGINES
    assert {*SUFFIXES} == {form.suffix for _, form in FORMS}


@pytest.mark.parametrize("line", ["predict --run ~/run a.png --output", "plot ~/run --output"])
def test_a_tilde_is_the_home_folder_in_what_a_command_is_told(line, monkeypatch, tmp_path, capsys):
    name, *argv = line.split()
    monkeypatch.setenv("HOME", str(tmp_path))
    command = importlib.import_module(f"detkit.commands.parsers.{name}")
    assert str(command.parse_arguments([*argv, "~/out"]).output) == f"{tmp_path}/out"
    with pytest.raises(SystemExit):
        command.parse_arguments([*argv, "~no_such_user/out"])
    assert "there is no user 'no_such_user'" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["my.yaml a.b=1", "a.b=1 --config-file my.yaml", "my.yaml --quick a.b=1"])
def test_the_config_may_be_the_first_word(given):
    doctor = importlib.import_module("detkit.commands.parsers.doctor")
    args = doctor.parse_arguments(given.split())
    assert (str(args.config_file), args.overrides) == ("my.yaml", ["a.b=1"])
