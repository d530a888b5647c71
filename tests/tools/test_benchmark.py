"""tools/benchmark.py in its smallest settings: every benchmark runs and leaves its numbers."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.limit import matrix_product
from benchmarks.options import BENCHMARKS, GpuOptions
from benchmarks.timing import Candidate, measure

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "tools" / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("command", ["infer", "train"])
def test_a_model_benchmark_writes_its_numbers(tool, tmp_path, capsys, command):
    path = tmp_path / "numbers.json"
    options = ["--size", "64", "--batch", "1", "--rounds", "1", "--warmup", "1", "--json", str(path)]
    assert tool.main([command, *options]) == 0
    numbers = json.loads(path.read_text())
    assert numbers["rows"][0]["name"] == "torchvision fp32"
    assert numbers["rows"][0]["ratio"] == 1
    assert len(numbers["rows"]) > 1
    assert all(row["milliseconds"] > 0 for row in numbers["rows"])
    assert numbers["settings"]["size"] == 64
    assert "torch " in numbers["machine"]["versions"]
    assert "detkit fp32" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [["data", "--images", "2"], ["paste", "--masks", "3"], ["eval", "--images", "3", "--detections", "9"]]
)
def test_a_benchmark_of_the_rest_writes_its_numbers(tool, tmp_path, command):
    path = tmp_path / "numbers.json"
    assert tool.main([*command, "--rounds", "1", "--warmup", "1", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) > 1
    assert all(row["milliseconds"] > 0 for row in rows)


def test_rounds_alternate_their_order_and_prepare_comes_before_each_run():
    calls = []
    candidates = [
        Candidate(name, lambda n=name: calls.append(n), prepare=lambda n=name: calls.append(n + "?"), memory=False)
        for name in "ab"
    ]
    measured = measure(candidates, rounds=2, warmup=1)
    assert calls == ["a?", "a", "b?", "b", "a?", "a", "b?", "b", "b?", "b", "a?", "a"]
    assert [len(m.seconds) for m in measured] == [2, 2]
    assert measured[0].ratio_to(measured[0]) == 1


def test_peak_memory_is_what_a_run_adds():
    def needs(mib):
        return lambda: torch.ones(mib * 2**20 // 4).sum()

    small, large = measure([Candidate("small", needs(8)), Candidate("large", needs(256))], rounds=1)
    if large.peak_memory is None:
        pytest.skip("the system keeps no record of its peak memory")
    assert 240 * 2**20 < large.peak_memory < 300 * 2**20
    assert small.peak_memory < 60 * 2**20


BURN = "import time\nwhile time.process_time() < 0.3: pass"


def test_processor_time_is_also_that_of_processes_that_were_waited_for():
    (measured,) = measure([Candidate("child", lambda: subprocess.run([sys.executable, "-c", BURN]))], rounds=1)
    if sys.platform == "win32":
        pytest.skip("the system tells of this process alone")
    assert measured.processor_seconds[0] >= 0.3


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_takes_its_options_from_the_command_line(tool, name, capsys):
    args = tool.parse_arguments([name, "--rounds", "3"])
    assert type(args.options) is BENCHMARKS[name]
    assert args.options == BENCHMARKS[name](rounds=3)
    assert json.loads(json.dumps(args.options.plain()))["rounds"] == 3
    with pytest.raises(SystemExit):
        tool.parse_arguments([name, "--help"])
    assert BENCHMARKS[name].__doc__ in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "--json-file", "a.json"], "--json-file and --image-root go together"),
        (["data", "--image-root", "images"], "--json-file and --image-root go together"),
        (["infer", "--precision", "fp16"], "invalid choice"),
        (["infer", "--engine", "openvino", "--device", "cuda"], "openvino run on the CPU"),
        (["paste", "--masks", "0"], "--masks: expected at least 1, got 0"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(tool, capsys, words, message):
    with pytest.raises(SystemExit) as end:
        tool.parse_arguments(words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_matrix_product_has_a_rate():
    (measured,) = measure([matrix_product(torch.float32, torch.device("cpu"), size=64)], rounds=1)
    assert measured.rate == pytest.approx(2 * 64**3 / measured.seconds[0])


def test_candidates_need_names_of_their_own():
    with pytest.raises(ValueError, match="different names"):
        measure([Candidate("a", int), Candidate("a", int)], rounds=1)


forked = pytest.mark.skipif(not hasattr(os, "fork"), reason="parts run in forked processes")


@forked
def test_a_part_that_fails_or_ends_or_takes_too_long_costs_only_itself():
    assert gpu.apart("good", lambda: {"answer": 42}, 60).found == {"answer": 42}
    failed = gpu.apart("bad", lambda: {"answer": [][0]}, 60)
    assert (failed.state, failed.found["error"]) == ("failed", "IndexError: list index out of range")
    ended = gpu.apart("ended", lambda: os._exit(3), 60)
    assert (ended.state, ended.found["error"]) == ("failed", "the process ended with 3")
    slow = gpu.apart("slow", lambda: {"": time.sleep(60)}, 0.2)
    assert slow.state == "dropped"
    assert "took over" in slow.words


@forked
def test_when_the_time_is_over_the_rest_is_dropped_with_a_word(monkeypatch):
    monkeypatch.setattr(gpu, "works", lambda options, folder: {"first": lambda: {"a": 1}, "second": lambda: {"b": 2}})
    monkeypatch.setattr(gpu, "machine", lambda: {"cpu": "one"})
    assert [p.state for p in gpu.run(GpuOptions(seconds=60)).parts] == ["ok", "ok"]
    report = gpu.run(GpuOptions(seconds=1))
    assert [p.state for p in report.parts] == ["dropped", "dropped"]
    assert "the 1 seconds are over" in report.table()


def _dry_run(path, *words):
    command = [sys.executable, "-W", "ignore", ROOT / "tools" / "benchmark.py", "gpu", "--device", "cpu", "--dry-run"]
    subprocess.run([*command, "--json", path, *words], check=True, cwd=path.parent, capture_output=True)
    return {part["name"]: part for part in json.loads(path.read_text())["parts"]}


@forked
def test_a_dry_run_trains_as_a_launcher_would(tmp_path):
    parts = _dry_run(tmp_path / "gpu.json", "--only", "one process")
    assert {name: part["state"] for name, part in parts.items()} == {"one process of many": "ok"}
    assert parts["one process of many"]["found"] == {"backend": "gloo"}


@forked
@pytest.mark.slow
def test_a_dry_run_comes_to_its_end(tmp_path):
    parts = _dry_run(tmp_path / "gpu.json")
    assert len(parts) >= 6
    assert {part["state"] for part in parts.values()} == {"ok"}
