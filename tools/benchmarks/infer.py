"""inference of Mask R-CNN R-50-FPN: from the image to pasted masks"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.agreement import agreement
from benchmarks.limit import count_flops, matrix_product
from benchmarks.models import as_samples, images_of, make_pair
from benchmarks.options import InferOptions
from benchmarks.report import Report, Row
from benchmarks.timing import Candidate, measure
from detkit.experiment import torch_device
from detkit.inference import optimized

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _without_gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.inference_mode()(function)


def run(options: InferOptions) -> Report:
    """Measures. The baseline is torchvision's model in fp32."""
    device = torch_device(options.device)
    images = images_of(options.image, options.batch)
    pair = make_pair(options.size, images[0])
    flops = count_flops(pair.theirs, [image.float() / 255 for image in images])
    pair.to(device)
    theirs = [(image.float() / 255).to(device) for image in images]
    samples = [sample.to(device) for sample in as_samples(images)]
    candidates = [Candidate("torchvision fp32", _without_gradients(lambda: pair.theirs(theirs)))]
    models, first = {}, {}
    for precision in dict.fromkeys(options.precision):
        model = models[precision] = optimized(pair.ours, precision, options.compile)
        start = time.perf_counter()
        _without_gradients(model)(samples)
        first[precision] = time.perf_counter() - start
        candidates.append(Candidate(f"detkit {precision}", _without_gradients(partial(model, samples))))
    limits = {name: matrix_product(_DTYPES[name], device) for name in models}
    measured = measure([*candidates, *limits.values()], rounds=options.rounds, warmup=options.warmup, device=device)
    by_name = {m.name: m for m in measured}
    baseline = measured[0]
    rows, facts = [Row.of(baseline, baseline)], {"GFLOP": flops / 1e9}
    for name, limit in limits.items():
        rate = by_name[limit.name].rate or 1.0
        facts |= {f"matrix product {name}, GFLOP/s": rate / 1e9, f"limit {name}, ms": 1000 * flops / rate}
    for m in measured[1 : len(candidates)]:
        limit_ms = facts[f"limit {m.name.split()[-1]}, ms"]
        rows.append(Row.of(m, baseline, **{"to limit": 1000 * m.median / limit_ms}))
    facts |= {f"first run {name}, s": seconds for name, seconds in first.items()}
    with torch.inference_mode():
        outputs = {
            name: [p.instances for p in model(samples) if p.instances is not None] for name, model in models.items()
        }
        if len(outputs) == 2:
            facts |= agreement(outputs["fp32"], outputs["bf16"])
        facts["detections an image"] = sum(len(found["boxes"]) for found in pair.theirs(theirs)) / options.batch
    title = f"inference, Mask R-CNN R-50-FPN, {options.size} pixels, batch {options.batch}, {device}"
    return Report(title, rows, facts, options.plain())
