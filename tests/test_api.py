"""detkit.train and detkit.evaluate: several in one process, in any thread, and the process is left as it was."""

import gc
import json
import logging
import os
import random
import shutil
import signal
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from tiny_detector import CONFIG, TINY

import detkit
from detkit import api
from detkit.engine import Interrupted
from detkit.registry import ConfigError, DataError

SHORT = [*TINY, "solver.max_iter=2"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return detkit.train(CONFIG, overrides=SHORT, output_dir=tmp_path_factory.mktemp("api") / "run")


def state():
    """What a training changes in a process."""
    gc.collect()
    files = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
    return {
        "files": {file for file in files if file.startswith(os.getcwd())} if sys.platform == "linux" else set(),
        "threads": threading.active_count(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "handlers": list(logging.getLogger().handlers),
        "levels": [logging.getLogger(name).level for name in (None, "detkit", "detkit.progress")],
        "warnings": warnings.showwarning,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "random": (random.random(), np.random.rand(), torch.rand(1).item()),
        "environment": dict(os.environ),
        "default type": torch.get_default_dtype(),
    }


def seed():
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)


def test_trainings_follow_one_another_in_folders_of_their_own_and_leave_the_process_as_it_was():
    seed()
    before = state()
    runs = []
    for _ in range(2):
        seed()
        runs.append(detkit.train(CONFIG, overrides=SHORT, train={"deterministic": True}))
        assert state() == before
    assert [run.path.name for run in runs] == ["quick_start", "quick_start_2"]
    assert runs[0].results["box"] == runs[1].results["box"]
    for run in runs:
        assert run.results == json.loads((run.path / "evaluation.json").read_text())
        assert (run.path / "log.txt").read_text()


def test_a_run_predicts_and_is_evaluated_where_it_lies(trained, tmp_path):
    moved = api.Run(tmp_path / "moved")
    shutil.copytree(trained, moved)
    assert detkit.evaluate(moved)["box"] == trained.results["box"]
    image = np.zeros((64, 80, 3), np.uint8)
    ours, theirs = (run.predictor(device="cpu")(image).instances for run in (moved, trained))
    assert torch.equal(ours.boxes.tensor, theirs.boxes.tensor)


def test_weights_are_evaluated_in_a_new_folder_and_trained_from(trained, tmp_path):
    weights = trained.path / "model_final.pth"
    assert detkit.evaluate(CONFIG, weights=weights, overrides=SHORT)["box"] == trained.results["box"]
    run = detkit.train(CONFIG, weights=weights, overrides=SHORT)
    assert run.path.name == "quick_start_2"
    assert f"weights from {weights}" in (run.path / "log.txt").read_text()
    named = [*SHORT, "train.init_weights=nowhere.pth"]
    for none in (None, "none"):
        assert not (detkit.train(CONFIG, weights=none, overrides=named).path / "nowhere.pth").exists()
    with pytest.raises(DataError, match="nowhere"):
        detkit.train(CONFIG, overrides=named)


def test_a_training_goes_on_when_it_is_asked_to(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    run = detkit.train(tmp_path / "run", resume=True, overrides=["solver.max_iter=3"])
    assert run.path == tmp_path / "run"
    steps = [json.loads(line)["iteration"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 2
    again = detkit.train(tmp_path / "run", overrides=["solver.max_iter=1"])
    assert again.path == tmp_path / "run_2"


def test_it_works_outside_of_the_main_thread():
    runs = []
    thread = threading.Thread(target=lambda: runs.append(detkit.train(CONFIG, overrides=SHORT)))
    thread.start()
    thread.join()
    assert runs[0].results["timing"]["images"]


@pytest.mark.parametrize(
    "given",
    [
        {"overrides": ["solver.max_iter=7", "model.neck=null", "train.precision=bf16"]},
        {"overrides": {"solver.max_iter": 7, "model": {"neck": None}, "train": {"precision": "bf16"}}},
        {"solver": {"max_iter": np.int64(7)}, "model": {"neck": None}, "overrides": "train.precision=bf16"},
    ],
)
def test_overrides_are_texts_or_mappings(given):
    overrides = given.pop("overrides")
    texts = api._changes(overrides, given, None, None)
    exp = detkit.load_experiment(CONFIG, [text for text in texts if "neck" not in text])
    assert (exp.solver.max_iter, exp.train.precision) == (7, "bf16")
    assert "model.neck=null" in texts


def test_one_text_is_one_override():
    assert detkit.load_experiment(CONFIG, "solver.max_iter=7").solver.max_iter == 7


def test_one_text_is_no_list_of_classes():
    with pytest.raises(ConfigError, match="class_names: expected a list of names, got the text 'cat'"):
        detkit.load_experiment(CONFIG).build_model(class_names="cat")


def test_damaged_results_are_named(tmp_path):
    (tmp_path / "evaluation.json").write_text('{"box":')
    with pytest.raises(DataError, match=r"evaluation\.json: is damaged .*detkit\.evaluate"):
        api.Run(tmp_path).results  # noqa: B018


def test_values_keep_their_kind():
    values = {"a": "x: {y}", "b": [1, 2.5, "3"], "c": {}, "d": True, "e": 1e-7, "f": float("inf"), "g": {"h": (1,)}}
    texts = api._changes((), values, {"i": 1}, "out put")
    expected = ['a="x: {y}"', 'b=[1, 2.5, "3"]', "c={}", "d=true", "e=1e-07", "f=.inf", "g.h=[1]", "data.i=1"]
    assert texts == [*expected, 'train.output_dir="out put"']


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"solvr": {"max_iter": 3}}, ConfigError, "Did you mean 'solver'"),
        ({"weights": "nowhere.pth"}, DataError, "nowhere"),
    ],
)
def test_a_mistake_is_an_exception_and_leaves_no_folder(given, error, words, empty_folder):
    with pytest.raises(error, match=words):
        detkit.train(CONFIG, overrides=SHORT, **given)
    assert not [path for path in empty_folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("given", [5, [5], [("solver.max_iter", 5)], {"solver": {"max_iter": {1}}}, {"solver": len}])
def test_overrides_of_another_kind_are_named(given):
    with pytest.raises(ConfigError, match="expected"):
        detkit.train(CONFIG, overrides=given)
    with pytest.raises(ConfigError, match="config: expected"):
        detkit.train(5)
    assert api._changes(None, {}, None, None) == []


def test_a_run_is_found_from_another_folder(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    run = api.Run("run")
    monkeypatch.chdir("/")
    assert run.results == trained.results
    assert run.predictor().class_names


def test_a_process_trains_one_model_at_a_time(monkeypatch):
    def another(*args):
        detkit.train(CONFIG, overrides=SHORT)

    with monkeypatch.context() as patch:
        patch.setattr(api, "train_experiment", another)
        with pytest.raises(RuntimeError, match="runs in this process"):
            detkit.train(CONFIG, overrides=SHORT)
    detkit.train(CONFIG, overrides=[*SHORT, "solver.max_iter=1"])


def test_ctrl_c_is_a_keyboard_interrupt_that_says_how_to_go_on(monkeypatch):
    def stopped(*args):
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(api, "train_experiment", stopped)
    with pytest.raises(KeyboardInterrupt, match=r"detkit\.train\('output/quick_start', resume=True\)"):
        detkit.train(CONFIG, overrides=SHORT)


def test_what_is_not_there_is_named():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        detkit.trian  # noqa: B018
    assert {"train", "Predictor"} <= set(dir(detkit))
    assert set(detkit._API) == set(api.__all__)
