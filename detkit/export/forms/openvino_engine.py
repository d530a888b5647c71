"""OpenVINO as an engine: for its own files, and for ONNX."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detkit.export.description import Description
from detkit.export.forms.interfaces import Engine, needed
from detkit.registry import DataError


def compiled(path: Path, description: Description, threads: int) -> Engine:
    """The engine for a file that OpenVINO reads; see ``Form.engines``."""
    ov: Any = needed("openvino", "openvino")
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads or torch.get_num_threads()}
    # The graph says what is bf16. With that as a hint OpenVINO computes the places of regions in it, too, pixels off.
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
