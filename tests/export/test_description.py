import hashlib
from types import SimpleNamespace

import msgspec
import pytest
import torch
from tiny_program import NOT_ASCII, experiment, model

import detkit
from detkit.export import Program, form_of
from detkit.export.description import FORMAT, UNSEALED, check_seal, read_description, sealed
from detkit.registry import DataError


@pytest.fixture(scope="module")
def said(program):
    return form_of(program).describe(program)


def test_it_says_what_goes_in_and_what_comes_out(said):
    shapes = {tensor.name: (tensor.type, tensor.shape) for tensor in (*said.inputs, *said.outputs)}
    assert shapes == {
        "images": ("float32", ["batch", 3, "height", "width"]),
        "regions": ("float32", ["batch", 4]),
        "boxes": ("float32", ["batch", 6, 4]),
        "scores": ("float32", ["batch", 6]),
        "classes": ("int64", ["batch", 6]),
        "mask_probs": ("float32", ["batch", 6, 28, 28]),
    }
    assert all(tensor.meaning for tensor in (*said.inputs, *said.outputs))


def test_what_it_says_comes_out(program, said):
    found = Program(program)(torch.rand(2, 3, 96, 120), torch.tensor([[0.0, 0.0, 120.0, 96.0]] * 2))
    assert list(found) == [tensor.name for tensor in said.outputs]
    for tensor in said.outputs:
        assert str(found[tensor.name].dtype) == f"torch.{tensor.type}"
        assert list(found[tensor.name].shape) == [2, *tensor.shape[1:]]


def test_it_says_how_images_become_what_goes_in(said):
    exp = experiment()
    preprocess = model(exp).preprocess
    assert said.preprocessing.mean == pytest.approx(preprocess.pixel_mean.flatten().tolist())
    assert said.preprocessing.std == pytest.approx(preprocess.pixel_std.flatten().tolist())
    assert (said.preprocessing.channel_order, said.preprocessing.scale) == ("RGB", 1.0)
    assert said.preprocessing.size_divisibility == 8
    assert said.preprocessing.steps == [
        {"name": "ResizeShortestEdge", "short_edge": [96], "max_size": 160, "sample": "choice"}
    ]
    assert said.preprocessing.resize is None


def test_it_says_of_what_it_was_made(said):
    assert (said.format, said.version, said.model) == (FORMAT, detkit.__version__, "GeneralizedRCNN")
    assert said.precision == "fp32"
    assert said.class_names == ["circle", "square", "triangle", "star", "ring"]
    thresholds = {"score_thresh": 0.2, "nms_thresh": 0.5, "max_detections": 6.0, "mask_thresh": 0.5}
    assert thresholds.items() <= said.thresholds.items()
    assert said.config["train"]["output_dir"] == NOT_ASCII
    assert detkit.load_experiment(said.config).model.cls.__name__ == "GeneralizedRCNN"


def test_names_of_any_script_come_back(said):
    names = ["größe", "三角形", "😀", 'a"b\\', "\x00\x1f\x7f"]
    changed = msgspec.structs.replace(said, class_names=names)
    assert changed.json().isascii()
    assert read_description(changed.json(), "x").class_names == names


def test_a_seal_is_of_every_byte():
    content = f'<a> {{"seal":"{UNSEALED}"}} </a>'.encode()
    whole = sealed(content)

    said = SimpleNamespace(seal=whole.decode().split('"')[3])
    check_seal(whole, said, "x")
    with pytest.raises(DataError, match="x: is damaged or was changed"):
        check_seal(whole.replace(b"<a>", b"<b>"), said, "x")


def test_a_seal_stands_once():
    """One that stands in many places, as no characters do, would let the file grow."""
    twice = UNSEALED.encode() * 2
    seal = f"sha256:{hashlib.sha256(twice).hexdigest()}"
    with pytest.raises(DataError, match="x: is damaged or was changed"):
        check_seal(twice.replace(UNSEALED.encode(), seal.encode()), SimpleNamespace(seal=seal), "x")


@pytest.mark.parametrize(
    "change",
    [
        {"seal": ""},
        {"seal": "sha256:0"},
        {"min_size": [2**17, 2**17]},
        {"min_size": [0, 8]},
        {"size_divisibility": 0},
        {"size_divisibility": 2**40},
        {"shape": [2**20, 3, 96, 96]},
        {"shape": [1, 3, -8, 96]},
        {"shape": [1, 3, 96]},
        {"shape": [1, 3, 96, "width"]},
        {"shape": ["batch", 1, "height", "width"]},
        {"inputs": []},
    ],
    ids=str,
)
def test_values_that_no_program_has_are_refused(said, change):
    """Batches are padded by them: they would take the memory."""
    content = msgspec.json.decode(said.json())
    places = {"size_divisibility": content["preprocessing"], "shape": content["inputs"][0]}
    for key, value in change.items():
        places.get(key, content)[key] = value
    with pytest.raises(DataError, match="x: its description is damaged"):
        read_description(msgspec.json.encode(content).decode(), "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is no program that detkit has exported"),
        ("", "is no program that detkit has exported"),
        ("{", "its description is damaged"),
        ("[" * 100_000, "its description is damaged"),
        ('{"format": 1}', "its description is damaged"),
        ('{"format": 99}', "its description is of version 99"),
        ("{}", "its description is of version None"),
    ],
)
def test_what_is_no_description_is_refused(text, message):
    with pytest.raises(DataError, match=f"x: {message}.*export the model again: detkit export RUN FILE"):
        read_description(text, "x")
