"""Operators that an engine has otherwise say what those in torch say, of sets of any number and size."""

import pytest
import torch
from torch import nn
from torch.export import Dim

from detkit.export.static.nms import nms_mask_of_torchvision, soft_nms_scores_of_torch

ort = pytest.importorskip("onnxruntime")
ov = pytest.importorskip("openvino")
pytest.importorskip("onnxscript")
onnx_operators = pytest.importorskip("detkit.export.forms.onnx_operators")


class OneOperator(nn.Module):
    def __init__(self, function, arguments):
        super().__init__()
        self.function, self.arguments = function, arguments

    def forward(self, *tensors):
        return self.function(*tensors, *self.arguments)


def sets(number, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, rows, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + torch.rand(number, rows, 2, generator=generator) * 30], dim=2)
    boxes[:, 3] = 0.0  # without area
    scores = torch.rand(number, rows, generator=generator)
    scores[:, 5:9] = -torch.inf
    return boxes, scores, torch.randint(0, 2, (number, rows), generator=generator)


@pytest.mark.parametrize(
    ("name", "in_torch", "num_inputs", "arguments"),
    [
        ("nms_mask", nms_mask_of_torchvision, 2, (0.3,)),
        ("soft_nms", soft_nms_scores_of_torch, 3, (0.3, 0.0, 30)),
        ("soft_nms", soft_nms_scores_of_torch, 3, (2.0, -2.0, 30)),
    ],
    ids=("nms", "linear", "gaussian"),
)
def test_it_says_the_same_in_every_engine(name, in_torch, num_inputs, arguments, tmp_path):
    operator = getattr(torch.ops.detkit, name)
    free = {0: Dim("sets"), 1: Dim("rows")}
    shapes = ((free,) * num_inputs,)
    example = sets(3, 60, 0)[:num_inputs]
    graph = torch.export.export(OneOperator(operator, arguments), example, dynamic_shapes=shapes, strict=False)
    table = {operator.default: getattr(onnx_operators, name)}
    program = torch.onnx.export(graph, dynamo=True, opset_version=18, verbose=False, custom_translation_table=table)
    file = tmp_path / "operator.onnx"
    program.save(file)
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    compiled = ov.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for given in (sets(3, 60, 1), sets(1, 100, 2), sets(2, 31, 3)):
        given = given[:num_inputs]
        expected = operator(*given, *arguments)
        assert torch.equal(in_torch(*given, *arguments), expected)
        taken = expected if name == "nms_mask" else expected.isfinite()
        assert 0 < taken.sum() < taken.numel()
        arrays = [one.numpy() for one in given]
        for found in (session.run(None, dict(zip(names, arrays)))[0], compiled(arrays)[0]):
            found = torch.from_numpy(found)
            assert torch.equal(found if name == "nms_mask" else found.isfinite(), taken)
            assert (found.float() - expected.float()).nan_to_num(0.0).abs().max() < 1e-6
