"""Weights behind prefixes, beside others, in part, or of values that no model can use."""

import argparse

import numpy as np
import pytest
import torch
from tiny_detector import tiny_experiment

from detkit.checkpoint import Checkpointer, as_checkpoint, load_weights, read_checkpoint
from detkit.registry import DataError


@pytest.fixture(scope="module")
def experiment():
    return tiny_experiment()


@pytest.fixture(scope="module")
def state(experiment):
    torch.manual_seed(5)
    return experiment.build_model(5).state_dict()


@pytest.fixture
def model(experiment):
    torch.manual_seed(6)
    return experiment.build_model(5)


def prefixed(state, prefix, part=""):
    return {f"{part}{prefix}{n[len(part) :]}" if n.startswith(part) else n: v for n, v in state.items()}


def ones(state):
    return {name: torch.ones_like(value) for name, value in state.items()}


def ema(state):
    return {"n_averaged": torch.tensor(3), **prefixed(state, "module.")}


WHOLE = {
    "compiled part": lambda s: prefixed(s, "_orig_mod.", "roi_heads.box_head."),
    "part of another's module": lambda s: prefixed(s, "model.", "backbone."),
    "wrapped part": lambda s: prefixed(s, "module.", "neck."),
    "several": lambda s: prefixed(prefixed(s, "module._orig_mod.", "backbone."), "model.module."),
    "AveragedModel under a key": lambda s: {"ema": ema(s), "epoch": 3},
    "one under the other": lambda s: {"ema": {"module": dict(s), "updates": 3}},
    "Lightning": lambda s: {
        "state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(3)},
        "hyper_parameters": argparse.Namespace(lr=0.1),
        "callbacks": {"best": np.float64(0.5)},
        "optimizer_states": [{"state": {0: {"step": 1}}}],
    },
    "net": lambda s: {"net": prefixed(s, "net."), "epoch": 1},
    "the raw ones before their averages": lambda s: {"ema_state_dict": ones(s), "weights": dict(s)},
}


@pytest.mark.parametrize("kind", WHOLE)
def test_weights_are_found_behind_keys_and_prefixes(kind, model, state, tmp_path):
    torch.save(WHOLE[kind](state), tmp_path / "w.pth")
    report = load_weights(model, tmp_path / "w.pth")
    assert report.complete
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_moving_averages_beside_the_weights_are_named_and_can_be_taken(model, state, tmp_path):
    torch.save({"model": ones(state), "model_ema": {"module": dict(state)}, "epoch": 2}, tmp_path / "w.pth")
    report = load_weights(model, tmp_path / "w.pth")
    assert "w.pth#model_ema.module" in str(report)
    assert all((value == 1).all() for value in model.state_dict().values())
    assert load_weights(model, f"{tmp_path}/w.pth#model_ema.module").complete
    assert torch.equal(model.backbone.stem.conv1.weight, state["backbone.stem.conv1.weight"])
    with pytest.raises(DataError, match=r"no weights under 'model_em'.*model_ema\.module"):
        read_checkpoint(f"{tmp_path}/w.pth#model_em")


def test_a_model_whose_part_is_wrapped_takes_plain_names(model, state):
    model.neck = torch.compile(model.neck)
    assert load_weights(model, state).complete


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["backbone.stem.conv1.weight", "roi_heads.box_head.cls_score.bias"])
def test_values_that_are_not_finite_are_refused(name, value, model, state):
    before = {n: v.clone() for n, v in model.state_dict().items()}
    damaged = {n: v.clone() for n, v in state.items()}
    damaged[name][(-1,) * damaged[name].ndim] = value
    with pytest.raises(DataError, match=rf"not finite.*{name}"):
        load_weights(model, damaged, partial=True)
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())


def test_weights_of_zeros_and_negative_variances_are_refused(model, state):
    with pytest.raises(DataError, match="no value but zero"):
        load_weights(model, {n: v if v.ndim == 1 else torch.zeros_like(v) for n, v in state.items()})
    name = next(name for name in state if name.endswith("running_var"))
    with pytest.raises(DataError, match=f"negative variances: {name}"):
        load_weights(model, {**state, name: state[name] - 2})


@pytest.mark.parametrize("prefix", ["student.", "model.student.", "ema_model.module.", "a.b.c.", "backbone."])
def test_names_behind_any_prefix_are_taken_by_the_address_that_the_message_gives(prefix, model, state, tmp_path):
    torch.save({"state_dict": {**prefixed(state, prefix), **prefixed(ones(state), "teacher.")}}, tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"Write \S+#\S+ or \S+#teacher for those behind") as caught:
        load_weights(model, tmp_path / "w.pth")
    assert load_weights(model, str(caught.value).split("Write ")[1].split()[0]).complete
    assert torch.equal(model.backbone.stem.conv1.weight, state["backbone.stem.conv1.weight"])


def test_two_models_of_one_name_in_a_file_are_not_mixed(model, state):
    load_weights(model, {**state, **prefixed(state, "module.")})
    with pytest.raises(DataError, match=r"has two tensors for '\S+', as of two models"):
        load_weights(model, {**state, **prefixed(ones(state), "net.")})


MISTAKEN = {
    "empty": (b"", "is an empty file"),
    "page": (b"\n<!DOCTYPE html><html>Not found</html>", "is a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
    "safetensors": (b"\x20\0\0\0\0\0\0\0{" + b" " * 31, "is a damaged safetensors file"),
}


@pytest.mark.parametrize("kind", MISTAKEN)
def test_files_that_are_taken_for_weights_by_mistake_are_named(kind, tmp_path):
    content, words = MISTAKEN[kind]
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(DataError, match=rf"w\.pth: .*{words}"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("part", ["backbone.", "neck.", "proposal_generator.", "roi_heads.box_head."])
def test_most_of_a_part_may_not_stay_random_unless_asked_for(part, model, state):
    rest = {name: value for name, value in state.items() if not name.startswith(part)}
    with pytest.raises(DataError, match=rf"leaves most of the model's {part.split('.')[0]} .*partial_weights=true"):
        load_weights(model, rest)
    report = load_weights(model, rest, partial=True)
    assert all(name.startswith(part) for name in report.missing)


def test_layers_of_other_classes_may_stay_random(experiment, state):
    report = load_weights(experiment.build_model(9), state)
    assert set(report.skipped) == {f"roi_heads.box_head.cls_score.{kind}" for kind in ("weight", "bias")}


UNUSUAL = {
    "sparse": lambda: torch.ones(4, 4).to_sparse(),
    "sparse rows": lambda: torch.ones(4, 4).to_sparse_csr(),
    "meta": lambda: torch.ones(4, 4, device="meta"),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNUSUAL)
def test_tensors_that_are_not_plain_are_named(kind, tmp_path):
    torch.save({"weight": UNUSUAL[kind](), "bias": torch.zeros(4)}, tmp_path / "w.pth")
    with pytest.raises(DataError, match=rf"w\.pth: the tensor 'weight' is.*{kind.split()[0]}"):
        load_weights(torch.nn.Linear(4, 4), tmp_path / "w.pth")


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_numbers_of_another_kind_are_no_weights(dtype):
    report = load_weights(torch.nn.Linear(4, 4), {"weight": torch.ones(4, 4, dtype=dtype), "bias": torch.ones(4)})
    assert report.reasons == {"weight": f"{dtype} in the file, torch.float32 in the model"}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float64, torch.int64, torch.bool])
def test_a_model_takes_back_numbers_of_any_kind(dtype, tmp_path):
    model = torch.nn.Linear(4, 4)
    model.register_buffer("table", torch.arange(4).to(dtype) * torch.tensor(1, dtype=dtype))
    other = torch.nn.Linear(4, 4)
    other.register_buffer("table", torch.zeros(4, dtype=dtype))
    load_weights(other, Checkpointer(tmp_path).save("model_final", model))
    assert torch.equal(other.table, model.table)


def test_numbered_tensors_beside_the_weights_are_no_weights():
    weight = torch.ones(2)
    checkpoint = as_checkpoint({"model": {"fc.weight": weight}, "momenta": {0: weight, 1: weight}})
    assert checkpoint.model == {"fc.weight": weight}
    assert checkpoint.others == ()


@pytest.mark.parametrize("key", [3, b"weight", None, ("a", 1)])
def test_names_that_are_no_text_are_refused(key, tmp_path):
    for content in ({key: torch.ones(2)}, {"model": {key: torch.ones(2)}}):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(DataError, match=r"w\.pth"):
            read_checkpoint(tmp_path / "w.pth")
