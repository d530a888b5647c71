"""What a library cannot write is an error of one line that says why and what to do."""

import pytest
import torch
from tiny_program import experiment, model
from torch import nn

from detkit.export import InputShape, export, program
from detkit.export.forms import OnnxForm, TorchForm
from detkit.export.forms.interfaces import conversion
from detkit.export.tracing import Traced
from detkit.registry import ConfigError


class Bessel(nn.Module):
    def forward(self, images, regions):
        return torch.special.bessel_j0(images), regions


def test_an_operator_that_onnx_has_not(tmp_path):
    pytest.importorskip("onnxscript")
    from detkit.export.forms.onnx import content_of

    example = torch.zeros(1, 3, 8, 8), torch.zeros(1, 4)
    graph = Traced(torch.export.export(Bessel(), example), ("maps", "same"), example, InputShape(), (8, 8))
    expected = r"a\.onnx: the model cannot be written in this form and fp32 .*bessel_j0.*; take \.pt2, which has all"
    with pytest.raises(ConfigError, match=expected), conversion(OnnxForm, tmp_path / "a.onnx", "fp32"):
        content_of(graph, None)


@pytest.mark.parametrize(
    ("form", "other"), [(OnnxForm, r"\.pt2"), (TorchForm, r"\.onnx or \.xml")], ids=("onnx", "torch")
)
@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (RuntimeError("step 3 failed"), ConfigError, "the model cannot be written in this form and fp32 .*; take {}"),
        (ConfigError("a reason"), ConfigError, "^a reason$"),
        (OSError("disk full"), OSError, "^disk full$"),
    ],
    ids=("library", "detkit", "system"),
)
def test_export_says_what_a_library_raises(monkeypatch, tmp_path, form, other, raised, expected, message):
    def write(*_):
        raise raised

    monkeypatch.setattr(form, "check", lambda _: None)
    monkeypatch.setattr(form, "write", write)
    monkeypatch.setattr(program, "traced", lambda *_: None)
    monkeypatch.setattr(program, "describe", lambda *_: None)
    with pytest.raises(expected, match=message.format(other)):
        export(model(experiment()), tmp_path / f"model{form.suffix}")
