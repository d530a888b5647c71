"""Engines besides torch as candidates: the models' programs, in files of a folder that is gone afterwards."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.models import Pair, as_samples, make_image
from detkit.export import FORMS, Program, ProgramModel, export
from detkit.export.forms.interfaces import needed
from detkit.export.tracing import quiet
from detkit.structures import Instances

CALIBRATION = 16
"""Images that the ranges of int8 are taken from."""


def exported(pair: Pair, engine: str, precision: str, folder: Path) -> tuple[ProgramModel, float]:
    """detkit's model as a program of the engine, and the seconds that writing and loading it took."""
    path, start = folder / f"{engine}_{precision}{FORMS.by_key()[engine].suffix}", time.perf_counter()
    model: Any = pair.ours
    images = as_samples([make_image(seed=100 + number) for number in range(CALIBRATION)])
    export(model, path, precision=precision, calibration=images if precision == "int8" else ())  # type: ignore[arg-type]
    return ProgramModel(model, Program(path, engine)), time.perf_counter() - start


def torchvision_in_onnxruntime(pair: Pair, image: Tensor, folder: Path) -> Callable[[], Instances]:
    """torchvision's model by torch's TorchScript exporter, which it has a way for, with images one at a time.

    Args:
        pair: of models.
        image: ``(3, H, W)``, 0 to 1; the program is for its size.
        folder: where the file goes.
    """
    path = folder / "torchvision.onnx"
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(pair.theirs, ([image],), path, opset_version=17, dynamo=False, input_names=["image"])
    ort: Any = needed("onnxruntime", "onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
    session, given = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]), {"image": image.numpy()}

    def run() -> Instances:
        """From the image to boxes, classes, scores and pasted masks."""
        boxes, classes, scores, masks = map(torch.from_numpy, session.run(None, given))
        size = (image.shape[1], image.shape[2])
        return Instances(size, boxes=boxes, classes=classes - 1, scores=scores, masks=masks[:, 0])

    return run
