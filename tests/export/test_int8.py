"""Programs in int8: of any model, and of any shape of input."""

import numpy as np
import pytest
import torch
from tiny_program import experiment, model, samples

from detkit.export import export, form_of, program
from detkit.export.forms import OpenVinoForm
from detkit.export.int8 import quantised

ov = pytest.importorskip("openvino")
pytest.importorskip("nncf")


def test_a_model_without_some_of_the_operators_that_stay_in_float():
    """As Semantic FPN is, which adds alone."""
    images, regions = ov.opset13.parameter([1, 3, 32, 32]), ov.opset13.parameter([1, 4])
    weight = ov.opset13.constant(np.ones((8, 3, 3, 3), np.float32))
    maps = ov.opset13.convolution(images, weight, [1, 1], [1, 1], [1, 1], [1, 1])
    graph = ov.Model([maps, ov.opset13.add(regions, ov.opset13.constant(np.float32(1)))], [images, regions])
    made = quantised(graph, [(torch.rand(1, 3, 32, 32), torch.rand(1, 4))])
    assert "FakeQuantize" in {node.get_type_name() for node in made.get_ops()}


@pytest.mark.parametrize("name", ["fixed.pt2", "model.pt2"])
def test_a_program_is_calibrated_on_what_it_takes(programs, monkeypatch, tmp_path, name):
    """Padded to its size, or its smallest one, and filled to its batch."""
    given, said = [], form_of(name).describe(programs / name)
    monkeypatch.setattr(OpenVinoForm, "check", lambda _: None)
    monkeypatch.setattr(OpenVinoForm, "write", lambda *arguments: given.extend(arguments[3]))
    monkeypatch.setattr(program, "traced", lambda *_: None)
    monkeypatch.setattr(program, "describe", lambda *_: said)
    photos = samples((1, 1), (64, 100), (96, 160))
    export(model(experiment()), tmp_path / "model.xml", precision="int8", calibration=photos)
    assert len(given) == (2 if name == "fixed.pt2" else 3)
    for images, regions in given:
        assert all(side >= least for side, least in zip(images.shape[2:], said.min_size, strict=True))
        assert len(regions) == len(images)
        assert name != "fixed.pt2" or list(images.shape) == said.inputs[0].shape
