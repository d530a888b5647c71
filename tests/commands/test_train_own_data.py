"""``detkit train --data`` and ``detkit evaluate --data``: a folder in the place of the config's datasets."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import detkit
from detkit.commands import doctor as doctor_command
from detkit.commands import evaluate as evaluate_command
from detkit.commands import train as train_command
from detkit.commands import visualize_data as visualize_command
from detkit.registry import ConfigError, DataError

QUICK = [
    *("solver.max_iter=2", "data.batch_size=2", "data.num_workers=0"),
    *("train.num_pictures=0", "train.doctor=false", "train.device=cpu"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A YOLO folder without parts: boxes of two classes."""
    path = tmp_path_factory.mktemp("yolo")
    for kind in ("images", "labels"):
        (path / kind).mkdir()
    (path / "data.yaml").write_text("path: .\ntrain: images\nnames: [left, right]\n")
    for i in range(12):
        Image.fromarray(np.full((64, 96, 3), 20 * i, np.uint8)).save(path / "images" / f"{i}.png")
        (path / "labels" / f"{i}.txt").write_text("0 0.25 0.5 0.2 0.4\n1 0.75 0.5 0.2 0.4\n")
    return path


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A training on it, by the command."""
    out = tmp_path_factory.mktemp("run") / "run"
    given = ["--data", str(folder), "--val-fraction", "0.4", "--weights", "none", *QUICK, f"train.output_dir={out}"]
    assert train_command.main(given) == 0
    return out


def test_a_folder_is_enough_to_train(run):
    assert set(json.loads((run / "evaluation.json").read_text())) >= {"box", "ema"}
    assert {"model_final.pth", "model_final_ema.pth", "config.yaml"} <= {file.name for file in run.iterdir()}
    log = (run / "log.txt").read_text()
    assert "no part to evaluate on: 40% of the images are" in log
    assert "three times as many without weights" not in log  # two steps were asked for
    assert "AutoDataset" in (run / "config.yaml").read_text()


def test_a_run_is_evaluated_on_another_folder_as_a_whole(run, folder, tmp_path, capsys):
    """And leaves the run's own results as they are; of its own data, on what it was not trained on."""
    shutil.copytree(folder, tmp_path / "other")
    own = (run / "evaluation.json").read_bytes()
    for config in (run, run / "config.yaml"):
        assert evaluate_command.main([str(config), "--data", str(tmp_path / "other")]) == 0
        said = capsys.readouterr().out
        assert "12 images in" in said
        assert f"The evaluation is in {run / 'on_other'}" in said
        assert (run / "on_other/evaluation.json").is_file()
        assert (run / "evaluation.json").read_bytes() == own
        shutil.rmtree(run / "on_other")
    detkit.evaluate(run, data=tmp_path / "other")
    assert "12 images in" in capsys.readouterr().out
    assert (run / "on_other/evaluation.json").is_file()
    assert (run / "evaluation.json").read_bytes() == own
    assert evaluate_command.main([str(run), "--data", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "images in" in said
    assert "12 images in" not in said


def test_from_python(folder, tmp_path):
    again = detkit.train(data=folder, weights="none", overrides=QUICK, output_dir=tmp_path / "run")
    assert again.results["box"]["AP"] >= 0
    assert again.predictor().class_names == ("left", "right")


def test_from_python_the_folders_options_are_those_of_the_command(folder, tmp_path, capsys):
    options = {"format": "yolo", "classes": "left", "val_fraction": 0.4}
    run = detkit.train(data=folder, weights="none", overrides=QUICK, output_dir=tmp_path / "run", **options)
    assert run.predictor().class_names == ("left",)
    assert detkit.evaluate(run, data=folder, format="yolo", output_dir=tmp_path / "on")["box"]
    for give, data in ((detkit.train, folder), (detkit.evaluate, shutil.copytree(folder, tmp_path / "other"))):
        with pytest.raises(DataError, match="no format 'yolov'"):
            give(run, data=data, format="yolov")
        with pytest.raises(ConfigError, match="format goes with a folder as data"):
            give(run, format="yolo")


def test_what_cannot_be_is_said(folder, run, tmp_path, capsys, monkeypatch):
    for given, words in (
        ([], "or a folder of your own: --data FOLDER"),
        (["--data", str(folder), "--resume"], "a run knows its data: detkit train output/own_data --resume goes on"),
        (["--data", str(folder), "--val-fraction", "2"], "between 0 and 1"),
        (["quick_start/mask_rcnn_shapes", "--format", "yolo"], "--format goes with --data"),
    ):
        with pytest.raises(SystemExit):
            train_command.main(given)
        assert words in capsys.readouterr().err
    with pytest.raises(ConfigError, match="give a config, or a folder"):
        detkit.train()
    with pytest.raises(ConfigError, match="a run knows its own"):
        detkit.train(run, data=folder, resume=True)
    monkeypatch.setenv("DETKIT_OFFLINE", "1")
    with pytest.raises(DataError, match=r"or train without weights, for longer: --weights none"):
        detkit.train(data=folder, output_dir=tmp_path / "run")


def test_doctor_and_pictures_take_the_folder_too(folder, tmp_path, capsys):
    given = ["--data", str(folder), "--classes", "left", "train.init_weights=null", f"train.output_dir={tmp_path}"]
    assert doctor_command.main([*given, "--quick"]) in (0, 1)
    assert visualize_command.main([*given, "--num", "2"]) == 0
    assert "left" in capsys.readouterr().out
    assert len(list((tmp_path / "data_train").iterdir())) == 2
