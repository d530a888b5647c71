"""where the time of a training step of Mask R-CNN R-50-FPN goes, by operator"""

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.options import ProfileOptions
from benchmarks.report import Report, Row
from benchmarks.timing import measure
from benchmarks.train import steps
from detkit.experiment import torch_device


def run(options: ProfileOptions) -> Report:
    """Measures: the operators of detkit's step that take most time of their own, on a GPU of its kernels."""
    device = torch_device(options.device)
    candidates = steps(options)
    measured = measure(candidates, rounds=options.rounds, warmup=options.warmup, device=device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    facts: dict[str, Any] = {}
    for candidate in candidates:
        with profile(activities=activities) as profiler:
            candidate.run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        kind = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        events = sorted(profiler.key_averages(), key=lambda event: getattr(event, kind), reverse=True)
        total = sum(getattr(event, kind) for event in events) or 1
        for event in events[: options.operators]:
            share = getattr(event, kind) / total
            facts[f"{candidate.name}: {event.key[:60]}"] = f"{100 * share:.1f} % in {event.count} calls"
    title = f"profile of a training step, {options.size} pixels, batch {options.batch}, {device}"
    return Report(title, [Row.of(m, measured[0]) for m in measured], facts, options.plain())
