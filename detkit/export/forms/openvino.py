"""``.xml`` with ``.bin``: OpenVINO's own files, by its converter from ONNX.

fp16 is what weights are stored in; CPUs compute in float32 all the same.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import msgspec
import torch
from torch import Tensor

from detkit.export.description import UNSEALED, Description, check_seal, read_description, sealed
from detkit.export.forms.interfaces import FORMS, Calibration, Engine, Form, Precision, needed
from detkit.export.forms.onnx import content_of
from detkit.export.int8 import quantised
from detkit.export.tracing import Traced
from detkit.registry import DataError
from detkit.utils.paths import atomic_write

KEY = "detkit"
"""Of the description among the model's runtime information."""


@FORMS.register()
class OpenVinoForm(Form):
    """OpenVINO's own files, run by OpenVINO on the CPU, which reads ONNX as well."""

    key = "openvino"
    suffix = ".xml"
    also_reads = (".onnx",)
    precisions: ClassVar[Mapping[Precision, str]] = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp32", "int8": "fp32"}

    @classmethod
    def check(cls, precision: Precision) -> None:
        for module in ("openvino", "onnx", "onnxscript", *(("nncf",) if precision == "int8" else ())):
            needed(module, "openvino")

    @classmethod
    def write(
        cls, traced: Traced, description: Description, precision: Precision, calibration: Calibration | None, path: Path
    ) -> None:
        ov: Any = needed("openvino", "openvino")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem[:40]}.") as folder:
            source, made = Path(folder, "model.onnx"), Path(folder, "model.xml")
            source.write_bytes(content_of(traced, None))
            model = ov.convert_model(source)
            if precision == "int8":
                assert calibration is not None
                model = quantised(model, calibration)
            weights = made.with_suffix(".bin")
            ov.save_model(model, made, compress_to_fp16=precision == "fp16")
            hashed = hashlib.sha256(weights.read_bytes()).hexdigest()
            described = msgspec.structs.replace(description, weights_hash=hashed, seal=UNSEALED)
            model.set_rt_info(described.json(), [KEY, "description"])
            ov.save_model(model, made, compress_to_fp16=precision == "fp16")
            content = sealed(made.read_bytes())
            os.replace(weights, path.with_suffix(".bin"))
            with atomic_write(path) as file:
                file.write(content)

    @classmethod
    def describe(cls, path: Path) -> Description:
        content, weights = path.read_bytes(), path.with_suffix(".bin")
        try:
            node = ElementTree.fromstring(content).find(f"rt_info/{KEY}/description")
        except ElementTree.ParseError as error:
            raise DataError(f"{path}: is no whole XML file ({error}); export it again") from None
        description = read_description(None if node is None else node.get("value"), str(path))
        check_seal(content, description, str(path))
        if not weights.is_file():
            raise DataError(f"{path}: {weights.name}, which has its weights, is not beside it; copy both files")
        if hashlib.sha256(weights.read_bytes()).hexdigest() != description.weights_hash:
            raise DataError(f"{weights}: is damaged, or of another program than {path.name}; copy both files again")
        return description

    @classmethod
    def files(cls, path: Path) -> list[Path]:
        return [path, path.with_suffix(".bin")]

    @classmethod
    def load(cls, path: Path, description: Description, threads: int) -> Engine:
        ov: Any = needed("openvino", "openvino")
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads or torch.get_num_threads()}
        # The graph says what is bf16. With that as a hint OpenVINO computes places of regions in it, too, pixels off.
        options["INFERENCE_PRECISION_HINT"] = "f32"
        try:
            core = ov.Core()
            program = core.compile_model(core.read_model(path), "CPU", options)
        except Exception as error:  # RuntimeError and its own
            raise DataError(f"{path}: OpenVINO {ov.__version__} does not take it ({str(error)[:200]})") from None

        def engine(images: Tensor, regions: Tensor) -> list[Tensor]:
            found = program([images.contiguous().numpy(), regions.numpy()])
            return [torch.from_numpy(found[i].copy()) for i in range(len(description.outputs))]

        return engine
