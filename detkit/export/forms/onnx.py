"""``.onnx``: opset 18, for ONNX Runtime, OpenVINO and others."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from detkit.export.description import Description, check_seal, read_description, sealed
from detkit.export.forms.interfaces import FORMS, Calibration, Engine, Form, Precision, needed
from detkit.export.tracing import Traced, quiet
from detkit.registry import DataError
from detkit.utils.paths import atomic_write

KEY = "detkit"
"""Of the description among the model's metadata."""
OPSET = 18


def content_of(traced: Traced, description: Description | None) -> bytes:
    """The file's bytes; without a description for another form."""
    operators: Any = needed("detkit.export.forms.onnx_operators", "onnx")  # imports what is an extra
    with quiet():
        program: Any = torch.onnx.export(
            traced.graph,
            traced.example,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=["images", "regions"],
            output_names=list(traced.outputs),
            custom_translation_table={
                torch.ops.detkit.nms_mask.default: operators.nms_mask,
                torch.ops.detkit.soft_nms.default: operators.soft_nms,
            },
        )
    if description is not None:
        program.model.metadata_props[KEY] = description.json()
    for node in program.model.graph:
        node.metadata_props.clear()  # traces of the machine that it was made on
    return program.model_proto.SerializeToString()


def embedded(content: bytes) -> str | None:
    """The description in the bytes of a file: JSON in ASCII, on which no other byte depends."""
    start = content.find(b'{"format":')
    if start < 0:
        return None
    end = re.compile(rb'"seal":"[^"]*"\}').search(content, start)
    return None if end is None else content[start : end.end()].decode("ascii", errors="replace")


@FORMS.register()
class OnnxForm(Form):
    """ONNX, run by ONNX Runtime on the CPU."""

    key = "onnxruntime"
    suffix = ".onnx"
    precisions: ClassVar[Mapping[Precision, str]] = {"fp32": "fp32", "fp16": "fp16"}

    @classmethod
    def check(cls, precision: Precision) -> None:
        for module in ("onnx", "onnxscript"):
            needed(module, "onnx")

    @classmethod
    def write(
        cls, traced: Traced, description: Description, precision: Precision, calibration: Calibration | None, path: Path
    ) -> None:
        content = sealed(content_of(traced, description))
        with atomic_write(path) as file:
            file.write(content)

    @classmethod
    def describe(cls, path: Path) -> Description:
        content = path.read_bytes()
        description = read_description(embedded(content), str(path))
        check_seal(content, description, str(path))
        return description

    @classmethod
    def load(cls, path: Path, description: Description, threads: int) -> Engine:
        ort = needed("onnxruntime", "onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has its own types, without a common base
            raise DataError(f"{path}: ONNX Runtime {ort.__version__} does not read it ({str(error)[:200]})") from None

        def engine(images: Tensor, regions: Tensor) -> list[Tensor]:
            found = session.run(None, {"images": images.contiguous().numpy(), "regions": regions.numpy()})
            return [torch.from_numpy(value) for value in found]

        return engine
