"""A run's folder belongs to one process, and nothing in it that is the user's moves or is written over."""

import os
import signal

import pytest
from folder_holder import holder_of

from detkit.config import ConfigError
from detkit.experiment.run import owned
from detkit.utils.run_folder import LOCK, begin_evaluation, begin_run, holding, mark_resumed, run_file


def test_the_second_is_told_who_holds_the_folder(tmp_path):
    with holder_of(tmp_path) as process:
        words = rf"train.output_dir: {tmp_path} is in use by process {process.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:"
        with pytest.raises(ConfigError, match=words), owned(tmp_path):
            pass
        (tmp_path / "link").symlink_to(tmp_path)  # by another name
        with pytest.raises(ConfigError, match="in use"), owned(tmp_path / "link"):
            pass
        assert (tmp_path / LOCK).exists()


def test_a_killed_holder_keeps_nobody_out_though_its_workers_live(tmp_path):
    with holder_of(tmp_path, workers=2) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert (tmp_path / LOCK).exists()
        with holding(tmp_path) as holder:
            assert holder == ""
        assert not (tmp_path / LOCK).exists()


def test_what_a_lock_says_is_no_lock(tmp_path):
    (tmp_path / LOCK).write_text(f"process {os.getpid()} on elsewhere since 2020-01-01 00:00:00")
    with owned(tmp_path), owned(tmp_path / "other"):  # missing folders are made
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()


@pytest.mark.parametrize("variable", ["SLURM_PROCID", "OMPI_COMM_WORLD_RANK"])
def test_processes_that_are_several_runs_are_told_how_to_be_one(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with holder_of(tmp_path), pytest.raises(ConfigError, match="started by torchrun"), owned(tmp_path):
        pass


def write(folder, *names, words="user's"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(words)


def tree(folder):
    hidden = {path.name for path in folder.iterdir() if path.name.startswith(".")}
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in hidden
    }


USERS = ("weights.pth", "config.yaml", "predictions/a.png", "notes.txt", "ema.sharded/part", "tensorboard/mine")
RUNS = ("metrics.jsonl", "checkpoint_0000001.pth", "model_final.pth", "model_final_ema.pth", "curves.png")


def test_what_is_the_users_stays_through_one_run_after_another(tmp_path):
    write(tmp_path, *USERS)
    before = tree(tmp_path)
    for number in (1, 2, 3):
        assert begin_run(tmp_path) == ""
        config, pictures = run_file(tmp_path, "config.yaml"), run_file(tmp_path, "predictions")
        assert (config.name, pictures.name) == ("run_config.yaml", "run_predictions")
        write(tmp_path, *RUNS, config.name, f"{pictures.name}/a.png", words=f"run {number}")
    now = tree(tmp_path)
    assert {name: now[name] for name in before} == before
    runs = {*RUNS, "run_config.yaml", "run_predictions/a.png"}
    expected = {f"earlier_run_{n}/{name}": f"run {n}" for n in (1, 2) for name in runs} | dict.fromkeys(runs, "run 3")
    assert now == before | expected


@pytest.mark.parametrize("name", ["model_final.pth", "evaluation.json", "checkpoint_0000003.pth", "curves.png"])
def test_what_a_run_would_write_over_is_in_its_way(tmp_path, name):
    write(tmp_path, name, "config.yaml")
    before = tree(tmp_path)
    assert begin_run(tmp_path) == name
    assert tree(tmp_path) == before
    (tmp_path / name).rename(tmp_path / "mine")  # the fix
    assert begin_run(tmp_path) == ""


@pytest.mark.parametrize("evidence", ["metrics.jsonl", "last_checkpoint"])
def test_a_run_of_an_older_detkit_is_known_by_what_it_left(tmp_path, evidence):
    write(tmp_path, evidence, "config.yaml", "model_final.pth", "mine.pth", words="old")
    assert run_file(tmp_path, "config.yaml").name == "config.yaml"
    assert begin_run(tmp_path) == ""
    assert set(tree(tmp_path)) == {
        "mine.pth",
        *(f"earlier_run_1/{n}" for n in (evidence, "config.yaml", "model_final.pth")),
    }


def test_a_run_that_goes_on_is_marked_and_keeps_its_mark(tmp_path):
    write(tmp_path, "model_final.pth")
    mark_resumed(tmp_path)
    assert begin_run(tmp_path) == ""
    assert set(tree(tmp_path)) == {"earlier_run_1/model_final.pth"}
    write(tmp_path, "config.yaml")
    mark_resumed(tmp_path)
    assert run_file(tmp_path, "config.yaml").name == "config.yaml"


def test_a_config_that_is_copied_out_of_a_run_is_the_users(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
    assert begin_run(tmp_path / "a") == ""
    write(tmp_path / "a", "config.yaml")
    (tmp_path / "b/config.yaml").write_bytes((tmp_path / "a/config.yaml").read_bytes())
    assert begin_run(tmp_path / "b") == ""
    assert set(tree(tmp_path / "b")) == {"config.yaml"}


def test_an_evaluation_leaves_pictures_of_the_users_and_moves_nothing(tmp_path):
    write(tmp_path, "model_final.pth", "predictions/a.png", "evaluation.json")
    before = tree(tmp_path)
    for _ in range(2):
        begin_evaluation(tmp_path)
        assert run_file(tmp_path, "predictions").name == "run_predictions"
        write(tmp_path, "run_predictions/a.png", "evaluation.json", words="evaluation")
    assert tree(tmp_path) == before | dict.fromkeys(("run_predictions/a.png", "evaluation.json"), "evaluation")
    assert begin_run(tmp_path) == "model_final.pth"
    (tmp_path / "model_final.pth").unlink()
    assert begin_run(tmp_path) == ""
    assert set(tree(tmp_path)) == {
        "predictions/a.png",
        "earlier_run_1/run_predictions/a.png",
        "earlier_run_1/evaluation.json",
    }
