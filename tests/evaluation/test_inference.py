import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from detkit.data.interfaces import Dataset
from detkit.engine.metrics import flatten
from detkit.evaluation import Evaluator, FirstPredictions, evaluate, write_evaluation
from detkit.registry import ConfigError
from detkit.structures import Boxes, Instances, Prediction, Sample


class Detector(nn.Module):
    """Says in its boxes what it saw of the image, and notes how it was called."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.weight = nn.Parameter(torch.ones(()))
        self.calls = []

    def forward(self, samples):
        self.calls.append((self.training, torch.is_grad_enabled(), len(samples)))
        value = self.weight * torch.ones(1)
        fields = {"boxes": Boxes([[0, 0, 1, 1]]), "scores": value, "classes": torch.zeros(1).long()}
        return [Prediction(Instances(s.original_size, **fields)) for s in samples]


class Collector(Evaluator):
    def __init__(self, key="seen"):
        super().__init__(Dataset())
        self.key, self.ids = key, ["left over"]

    def reset(self):
        self.ids = []

    def update(self, samples, predictions):
        assert len(samples) == len(predictions)
        self.ids += [s.image_id for s in samples]

    def compute(self):
        return {self.key: list(self.ids)}


def batches(*sizes):
    ids = iter(range(100))
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    return [[Sample(image, (4, 4), next(ids)) for _ in range(size)] for size in sizes]


def test_every_batch_reaches_model_and_evaluators():
    model = Detector()
    results = evaluate(model, batches(2, 2, 1), [Collector(), Collector("again")], progress=False)
    assert results["seen"] == results["again"] == [0, 1, 2, 3, 4]
    assert model.calls == [(False, False, 2), (False, False, 2), (False, False, 1)]
    timing = results["timing"]
    assert timing["images"] == 5
    assert timing["images_per_second"] > 0
    assert timing["model_seconds"] <= timing["seconds"]


def test_every_module_has_its_mode_again_afterwards():
    model = Detector().train()
    model.norm.eval()
    evaluate(model, batches(1), [], progress=False)
    assert model.training
    assert not model.norm.training


def test_modes_are_restored_after_an_error():
    model = Detector().train()
    with pytest.raises(RuntimeError, match="broken batch"):
        evaluate(model, _broken(), [], progress=False)
    assert model.training


def _broken():
    yield batches(1)[0]
    raise RuntimeError("broken batch")


def test_first_predictions_are_kept_without_a_second_pass():
    model, kept = Detector(), FirstPredictions(3)
    evaluate(model, batches(2, 2, 2), [], progress=False, on_batch=kept)
    assert [s.image_id for s, _ in kept.pairs] == [0, 1, 2]
    assert all(len(prediction.instances) == 1 for _, prediction in kept.pairs)
    assert len(model.calls) == 3
    evaluate(model, batches(1, 1), [], progress=False, on_batch=kept)
    assert [s.image_id for s, _ in kept.pairs] == [0, 1]


def test_two_results_of_one_name_are_an_error():
    with pytest.raises(ValueError, match="seen"):
        evaluate(Detector(), batches(1), [Collector(), Collector()], progress=False)


def test_names_that_are_known_before_are_compared_before_anything_is_predicted():
    evaluators, model = [Collector(), Collector()], Detector()
    for evaluator in evaluators:
        evaluator.result_names = ("seen",)
    with pytest.raises(ConfigError, match="Collector and Collector both give results named 'seen'"):
        evaluate(model, batches(1), evaluators, progress=False)
    assert not model.calls


def test_an_empty_test_set_is_warned_of(caplog):
    results = evaluate(Detector(), [], [Collector()], progress=False)
    assert results["seen"] == []
    assert "no image" in caplog.text


def test_progress_bar_knows_the_end(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    evaluate(Detector(), batches(1, 1), [], progress=True)
    assert "/2" in capsys.readouterr().err
    evaluate(Detector(), batches(1, 1), [], progress=False)
    assert capsys.readouterr().err == ""


class Counter(Evaluator):
    def report(self, results):
        return f"counted {results['count']}"


def test_results_are_written_and_reported(tmp_path):
    timing = {"images": 10, "seconds": 4.0, "model_seconds": 3.0, "images_per_second": 2.5}
    results = {"count": 3, "timing": timing}
    text = write_evaluation(results, [Counter(Dataset())], tmp_path / "new" / "evaluation.json")
    assert json.loads((tmp_path / "new" / "evaluation.json").read_text()) == results
    assert text.startswith("counted 3\n")
    assert "10 images in 4.0 s (2.5 images/s" in text


def test_results_of_numpy_torch_and_no_number_are_written_as_json(tmp_path):
    class Kind:
        def __str__(self):
            return "a kind"

    results = {
        "a": np.float32(0.5),
        "b": {"c": torch.tensor(2), 3: float("nan")},
        "d": (np.arange(2), Kind(), None, True),
    }
    write_evaluation(results, [], tmp_path / "evaluation.json")
    read = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert read == {"a": 0.5, "b": {"c": 2, "3": None}, "d": [[0, 1], "a kind", None, True]}
    assert flatten({"a": np.float32(0.5), "b": {"c": torch.tensor(2)}, "d": np.int64(3)}) == {
        "a": 0.5,
        "b/c": 2,
        "d": 3,
    }
