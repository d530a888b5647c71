"""inference of Mask R-CNN R-50-FPN: from the image to pasted masks"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.agreement import agreement
from benchmarks.engines import exported, torchvision_in_onnxruntime
from benchmarks.limit import count_flops, matrix_product
from benchmarks.models import Pair, as_samples, images_of, make_pair
from benchmarks.options import InferOptions
from benchmarks.report import Report, Row
from benchmarks.timing import Candidate, measure
from detkit.experiment import torch_device
from detkit.inference import optimized

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PRECISIONS = {"torch": ("fp32", "bf16"), "openvino": ("fp32", "bf16", "int8"), "onnxruntime": ("fp32",)}
"""What an engine computes in."""


def _without_gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.inference_mode()(function)


def _models(options: InferOptions, pair: Pair, folder: Path) -> tuple[dict[str, nn.Module], dict[str, float]]:
    """Name of a row -> model, and how long each took to make."""
    models: dict[str, nn.Module] = {}
    seconds = {}
    for engine in dict.fromkeys(options.engine):
        for precision in dict.fromkeys(p for p in options.precision if p in _PRECISIONS[engine]):
            if engine == "torch":
                models[f"detkit {precision}"] = optimized(pair.ours, precision, options.compile)  # type: ignore[arg-type]
            else:
                name = f"detkit {engine} {precision}"
                models[name], seconds[f"export {name}, s"] = exported(pair, engine, precision, folder)
    return models, seconds


def run(options: InferOptions) -> Report:
    """Measures. The baseline is torchvision's model in fp32."""
    with tempfile.TemporaryDirectory() as folder:
        return _measured(options, Path(folder))


def _measured(options: InferOptions, folder: Path) -> Report:
    device = torch_device(options.device)
    images = images_of(options.image, options.batch)
    pair = make_pair(options.size, images[0])
    flops = count_flops(pair.theirs, [image.float() / 255 for image in images])
    pair.to(device)
    theirs = [(image.float() / 255).to(device) for image in images]
    samples = [sample.to(device) for sample in as_samples(images)]
    candidates = [Candidate("torchvision fp32", _without_gradients(lambda: pair.theirs(theirs)))]
    models, seconds = _models(options, pair, folder)
    facts: dict[str, Any] = {"GFLOP": flops / 1e9, **seconds}
    for name, model in models.items():
        start = time.perf_counter()
        _without_gradients(model)(samples)
        facts[f"first run {name}, s"] = time.perf_counter() - start
        candidates.append(Candidate(name, _without_gradients(partial(model, samples))))
    if "onnxruntime" in options.engine and options.batch == 1:
        candidates.append(
            Candidate("torchvision onnxruntime fp32", torchvision_in_onnxruntime(pair, theirs[0], folder))
        )
    limits = {p: matrix_product(_DTYPES[p], device) for p in dict.fromkeys(options.precision) if p in _DTYPES}
    measured = measure([*candidates, *limits.values()], rounds=options.rounds, warmup=options.warmup, device=device)
    by_name, baseline = {m.name: m for m in measured}, measured[0]
    for name, limit in limits.items():
        rate = by_name[limit.name].rate or 1.0
        facts |= {f"matrix product {name}, GFLOP/s": rate / 1e9, f"limit {name}, ms": 1000 * flops / rate}
    with torch.inference_mode():
        outputs = {name: [p.instances for p in model(samples)] for name, model in models.items()}
        facts["detections an image"] = sum(len(found["boxes"]) for found in pair.theirs(theirs)) / options.batch
        wanted = [p.instances for p in pair.ours(samples)]
    rows = [Row.of(baseline, baseline)]
    for m in measured[1 : len(candidates)]:
        metrics: dict[str, Any] = {}
        if m.name.split()[-1] in limits:
            metrics["to limit"] = 1000 * m.median / facts[f"limit {m.name.split()[-1]}, ms"]
        if m.name in outputs and m.name.endswith("fp32"):  # in others random weights find other objects
            metrics |= agreement(wanted, outputs[m.name])  # type: ignore[arg-type]
        rows.append(Row.of(m, baseline, **metrics))
    title = f"inference, Mask R-CNN R-50-FPN, {options.size} pixels, batch {options.batch}, {device}"
    return Report(title, rows, facts, options.plain())
