"""Data named beside a run: what of it is evaluated, by which classes and weights."""

import json

import pytest
from small_folders import make_folder
from test_own_data import coco
from tiny_detector import CONFIG, TINY

from detkit.checkpoint import Checkpointer
from detkit.config import to_yaml
from detkit.data import open_dataset
from detkit.evaluating import evaluated, evaluation_of
from detkit.experiment import evaluation_data, load_experiment
from detkit.registry import DataError

MODEL = [text for text in TINY if text.startswith("model.")]


@pytest.fixture
def run(tmp_path):
    """The folder of a run that knows dogs and cats, trained on a part of ``learnt``."""
    data = coco(tmp_path / "learnt")
    node = f"{{name: AutoDataset, path: '{data}', split: train, val_fraction: 0.3, class_names: [dog, cat]}}"
    nodes = [f"data.train_dataset={node}", f"data.test_dataset={node}", "data.test_dataset.split=val"]
    exp = load_experiment(CONFIG, [*MODEL, *nodes])
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(exp.tree))
    Checkpointer(folder).save("model_final", exp.build_model(), config=exp.tree)
    return folder


@pytest.mark.parametrize(("parts", "number"), [(("train", "valid", "test"), 4), (("train", "test"), 5), (("test",), 5)])
def test_the_part_for_evaluation_is_evaluated(run, tmp_path, parts, number):
    for part, images in (("train", 6), ("valid", 4), ("test", 5)):
        if part in parts:
            coco(tmp_path / "other", part, images=images)
    exp = evaluation_data(tmp_path / "other", run).experiment()
    assert len(exp.data.test_set) == number
    assert exp.data.test_set.class_names == ("dog", "cat")  # the model's order
    assert exp.train.output_dir == str(run / "on_other")  # the run keeps its own results


def test_the_classes_are_the_weights_where_the_config_names_none(run, tmp_path):
    data, weights = coco(tmp_path / "other"), run / "model_final.pth"
    exp = evaluation_of(CONFIG, data=data, weights=weights)[0].experiment()
    assert exp.data.test_set.class_names == ("dog", "cat")


def test_the_classes_are_a_programs(programs, tmp_path):
    data = coco(tmp_path / "other", classes=("ring", "star", "triangle", "square", "circle"))
    prepared, weights = evaluation_of(CONFIG, data=data, weights=programs / "model.pt2")
    assert weights == programs / "model.pt2"
    assert prepared.experiment().data.test_set.class_names == ("circle", "square", "triangle", "star", "ring")


def test_the_folder_of_the_results_is_the_callers_where_he_names_one(run, tmp_path):
    exp = evaluation_data(coco(tmp_path / "other"), run, ["train.output_dir=elsewhere"]).experiment()
    assert exp.train.output_dir == "elsewhere"


def test_data_without_a_part_for_evaluation_is_evaluated_whole(run, tmp_path):
    assert len(evaluation_data(coco(tmp_path / "other", images=7), run).experiment().data.test_set) == 7


def test_what_a_run_was_trained_on_is_not_evaluated(run, tmp_path):
    own = evaluation_data(tmp_path / "run" / ".." / "learnt", run)
    assert own.experiment().tree == load_experiment(run).tree
    assert 0 < len(own.experiment().data.test_set) < 10
    assert "trained on" in own.notes


@pytest.mark.parametrize("path", ["~/learnt", "~/learnt/labels.json"])
def test_what_a_run_was_trained_on_is_known_by_each_of_its_paths(run, tmp_path, monkeypatch, path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "learnt/train/_annotations.coco.json").rename(tmp_path / "learnt/labels.json")
    own = evaluation_data(path, run)
    assert own.experiment().tree == load_experiment(run).tree
    assert "trained on" in own.notes
    nested = "data.train_dataset={name: TiledDataset, size: 64, dataset: {name: AutoDataset, path: ~/learnt}}"
    assert "trained on" in evaluation_data(path, run, [nested], class_names=("dog", "cat")).notes


def test_a_file_beside_what_a_run_was_trained_on_is_evaluated(run, tmp_path):
    coco(tmp_path / "learnt", "test", images=5)
    file = (tmp_path / "learnt/test/_annotations.coco.json").rename(tmp_path / "learnt/instances_test.json")
    assert len(evaluation_data(file, run).experiment().data.test_set) == 5
    changes = [f"data.train_dataset.path={tmp_path}/learnt/other.json"]
    assert len(evaluation_data(file, run, changes).experiment().data.test_set) == 5


def test_what_a_run_was_trained_on_may_be_gone(run, tmp_path):
    coco(tmp_path / "other", images=7)
    (tmp_path / "learnt").rename(tmp_path / "moved")
    assert len(evaluation_data(tmp_path / "other", run).experiment().data.test_set) == 7


def test_data_of_other_classes_are_refused(run, tmp_path):
    with pytest.raises(DataError, match="other: has no class 'dog', which the model knows; it has horse, cat"):
        evaluation_data(coco(tmp_path / "other", classes=("horse", "cat")), run)


@pytest.mark.parametrize(
    ("format", "label"), [("LabelMeDataset", "cat"), ("KittiDataset", "Car"), ("ViaDataset", None)]
)
def test_labels_that_lack_a_class_of_the_model_are_evaluated(run, tmp_path, format, label):
    folder = make_folder(format, tmp_path / "other")
    label = label or open_dataset(folder).class_names[0]
    names = ["data.train_dataset.class_names=" + json.dumps(["zebra", label, "dog"])]
    found = evaluation_data(folder, run, names).experiment().data.test_set
    assert found.class_names == ("zebra", label, "dog")
    assert {*found.objects().classes.tolist()} == {1}
    names = ['data.train_dataset.class_names=["zebra","dog"]']
    with pytest.raises(DataError, match=f"other: has no class 'zebra', 'dog', which the model knows; it has {label}"):
        evaluation_data(folder, run, names)


def test_the_weights_of_a_run_are_those_in_its_folder(run):
    final = run / "model_final.pth"
    assert evaluated(run, None) == evaluated(run, "model_final.pth") == final
    assert evaluated(CONFIG, None) is None
    assert evaluated({}, "x.pth") == "x.pth"
    final.rename(run / "checkpoint_0000005.pth")
    with pytest.raises(DataError, match=r"weights there: checkpoint_0000005\.pth"):
        evaluated(run, "model_best.pth")
