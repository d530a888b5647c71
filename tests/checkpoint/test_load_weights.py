"""load_weights: matching by name, class rows, and that nothing is done half-way."""

import copy
import sys

import pytest
import torch
from torch import nn

from detkit.checkpoint import Checkpoint, Checkpointer, load_weights, read_checkpoint
from detkit.registry import DataError
from detkit.structures import ClassRows


class Head(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.cls_score = nn.Linear(5, num_classes + 1)
        self.bbox_pred = nn.Linear(5, 4 * num_classes)
        self.mask = nn.Conv2d(5, num_classes, 1)
        self.class_rows = {
            "cls_score.weight": ClassRows(background=True),
            "cls_score.bias": ClassRows(background=True),
            "bbox_pred.weight": ClassRows(4),
            "bbox_pred.bias": ClassRows(4),
            "mask.weight": ClassRows(),
            "mask.bias": ClassRows(),
        }


class Model(nn.Module):
    def __init__(self, *names):
        super().__init__()
        self.class_names = names or None
        self.num_classes = len(names) or 3
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = Head(self.num_classes)


def state(model):
    return copy.deepcopy(model.state_dict())


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def saved(model, tmp_path):
    return Checkpointer(tmp_path).save("model_final", model)


def test_equal_models_load_wholly(tmp_path):
    one, two = Model("a", "b"), Model("a", "b")
    report = load_weights(two, saved(one, tmp_path), strict=True)
    assert equal(one.state_dict(), two.state_dict())
    assert report.complete
    assert sorted(report.loaded) == sorted(one.state_dict())
    assert "model_final.pth: 13 of the model's 13 tensors loaded" in str(report)


def test_columns_of_classes_go_by_name_too(tmp_path):
    """A layer that reads, after 5 other channels, what another layer says of each class."""

    class Refiner(nn.Module):
        def __init__(self, *names):
            super().__init__()
            self.class_names = names
            self.hidden, self.predictor = nn.Linear(5 + len(names), 4), nn.Linear(5 + len(names), len(names))
            self.class_rows = {
                "hidden.weight": ClassRows(0, columns_after=5),
                "predictor.weight": ClassRows(columns_after=5),
                "predictor.bias": ClassRows(),
            }

    one, two = Refiner("cat", "dog", "horse"), Refiner("dog", "bird", "cow", "cat")
    before = state(two)
    load_weights(two, saved(one, tmp_path))
    here, there, fresh = [0, 1, 2, 3, 4, 5, 8], [0, 1, 2, 3, 4, 6, 5], [6, 7]
    assert torch.equal(two.hidden.weight[:, here], one.hidden.weight[:, there])
    assert torch.equal(two.hidden.weight[:, fresh], before["hidden.weight"][:, fresh])
    assert torch.equal(two.predictor.weight[[0, 3]][:, here], one.predictor.weight[[1, 0]][:, there])
    assert torch.equal(two.predictor.weight[:, fresh], before["predictor.weight"][:, fresh])
    assert torch.equal(two.predictor.weight[[1, 2]], before["predictor.weight"][[1, 2]])


def test_class_rows_go_by_name_to_other_places_and_other_numbers(tmp_path):
    one, two = Model("cat", "dog", "horse"), Model("dog", "bird", "cow", "cat")
    before = state(two)
    report = load_weights(two, saved(one, tmp_path))
    pairs, fresh = [(0, 1), (3, 0)], [1, 2]  # (row here, row there)
    for name, background in (("cls_score", True), ("mask", False)):
        ours, theirs = getattr(two.head, name), getattr(one.head, name)
        for here, there in [*pairs, *([(4, 3)] if background else [])]:
            assert torch.equal(ours.weight[here], theirs.weight[there])
            assert torch.equal(ours.bias[here], theirs.bias[there])
        assert torch.equal(ours.weight[fresh], before[f"head.{name}.weight"][fresh])
    ours, theirs = two.head.bbox_pred.weight.unflatten(0, (-1, 4)), one.head.bbox_pred.weight.unflatten(0, (-1, 4))
    for here, there in pairs:
        assert torch.equal(ours[here], theirs[there])
    assert torch.equal(ours[fresh], before["head.bbox_pred.weight"].unflatten(0, (-1, 4))[fresh])
    assert torch.equal(two.backbone[0].weight, one.backbone[0].weight)
    assert report.notes["head.cls_score.weight"] == "2 of 4 classes by name, and the background"
    assert "2 of 4 classes by name" in str(report)
    assert not report.skipped


def test_the_same_names_in_another_order_are_not_taken_row_for_row(tmp_path):
    one, two = Model("a", "b"), Model("b", "a")
    load_weights(two, saved(one, tmp_path))
    assert torch.equal(two.head.mask.weight, one.head.mask.weight.flip(0))


def test_no_common_class_is_a_warning_and_keeps_the_rows(tmp_path):
    one, two = Model("a", "b"), Model("c", "d")
    before = state(two)
    report = load_weights(two, saved(one, tmp_path))
    assert "no class of the file (a, b)" in str(report)
    assert report.reasons["head.mask.weight"] == "no class has the same name"
    assert torch.equal(two.head.mask.weight, before["head.mask.weight"])
    assert torch.equal(two.head.cls_score.weight[-1], one.head.cls_score.weight[-1])  # background
    assert torch.equal(two.head.cls_score.weight[:-1], before["head.cls_score.weight"][:-1])


def test_shape_missing_and_unexpected_are_told_and_the_rest_is_loaded():
    source, model = state(Model()), Model()
    source["head.mask.bias"] = torch.zeros(7)
    source["extra.weight"] = source.pop("backbone.0.bias")
    before = state(model)
    report = load_weights(model, source)
    assert report.skipped == ["head.mask.bias"]
    assert report.reasons["head.mask.bias"] == "shape (7,) in the file, (3,) in the model"
    assert report.missing == ["backbone.0.bias"]
    assert report.unexpected == ["extra.weight"]
    assert torch.equal(model.head.mask.bias, before["head.mask.bias"])
    assert torch.equal(model.head.mask.weight, source["head.mask.weight"])
    for words in ("skipped head.mask.bias: shape (7,)", "missing", "backbone.0.bias", "extra.weight"):
        assert words in str(report)
    with pytest.raises(ValueError, match=r"strict=True(.|\n)*extra\.weight"):
        load_weights(model, source, strict=True)


def test_the_model_is_untouched_when_loading_fails(tmp_path):
    model, path = Model("a", "b"), saved(Model("a", "b"), tmp_path)
    before = state(model)
    source = state(Model("a", "b"))
    source["head.mask.bias"] = torch.zeros(7)
    with pytest.raises(ValueError, match="strict"):
        load_weights(model, source, strict=True)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError):
        load_weights(model, path)
    with pytest.raises(DataError, match=r"not one of its tensors.*In the file: layer\.weight"):
        load_weights(model, {"layer.weight": torch.zeros(1)})
    assert equal(before, model.state_dict())


def test_a_wrapped_model_takes_and_gives_plain_names(tmp_path):
    model = Model("a", "b")
    path = Checkpointer(tmp_path).save("model_final", nn.DataParallel(Model("a", "b")))
    assert load_weights(nn.DataParallel(model), path).complete


def test_a_model_without_class_names_learns_them_where_they_fit():
    weights = state(Model())
    model = Model()
    load_weights(model, Checkpoint(weights, class_names=("x", "y", "z")))
    assert model.class_names == ("x", "y", "z")
    model = Model()
    load_weights(model, Checkpoint(weights, class_names=("x", "y")))  # two names cannot be those of three classes
    assert model.class_names is None


def test_a_long_list_is_summed_up_by_prefix():
    model = nn.ModuleDict({f"block{i}": nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)) for i in range(3)})
    model["head"] = nn.Linear(1, 1)
    text = str(load_weights(model, {"head.weight": torch.ones(1, 1)}))
    assert "missing, so left as initialised (13): block0.* (4), block1.* (4), block2.* (4), head.* (1)" in text


def test_complete_is_about_the_model_exact_about_both_sides():
    source = state(Model())
    assert load_weights(Model(), source).exact
    source["extra.weight"] = torch.zeros(1)
    report = load_weights(Model(), source)
    assert report.complete
    assert not report.exact
    with pytest.raises(ValueError, match="strict=True"):
        load_weights(Model(), source, strict=True)
    del source["backbone.0.weight"]
    assert not load_weights(Model(), source).complete


def test_what_other_programs_write_beside_the_weights_is_not_taken_for_a_run_of_detkits(tmp_path):
    content = {"model": state(Model()), "config": {"a": 1}, "trainer": {"iteration": 3}}
    torch.save(content, tmp_path / "theirs.pth")
    torch.save({**content, "detkit_version": "1"}, tmp_path / "ours.pth")
    theirs, ours = read_checkpoint(tmp_path / "theirs.pth"), read_checkpoint(tmp_path / "ours.pth")
    assert (theirs.config, theirs.trainer) == (None, None)
    assert (ours.config, ours.trainer) == (content["config"], content["trainer"])


def test_keras_files_are_told_by_their_content(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "weights.bin"
    with h5py.File(path, "w") as file:
        file["rpn_model/rpn_conv_shared/kernel:0"] = torch.rand(3, 3, 2, 4).numpy()
    assert read_checkpoint(path).model["rpn.conv_shared.weight"].shape == (4, 2, 3, 3)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=r"weights\.bin.*again"):
        read_checkpoint(path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"weights\.bin: .*detkit\[keras\]"):
        read_checkpoint(path)
