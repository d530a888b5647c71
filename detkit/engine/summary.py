"""Arrays in a few words: what a batch really holds, for the log."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from detkit.structures import Instances, Masks, Sample

_COLUMNS = ("what", "shape", "type", "min", "max", "mean")


def summarize(value: Any) -> dict[str, Any]:
    """An array's shape, type, least, greatest and mean value.

    Args:
        value: a tensor, an array or masks (the numbers are of their areas, in square pixels).

    Returns:
        ``shape``, ``type``, ``min``, ``max``, ``mean``; of an array without elements, or of another value (whose
        ``shape`` is then its text), only the first two. Values that are not finite are left out of the numbers and
        counted under ``type``.
    """
    kind = type(value).__name__
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        value = torch.from_numpy(value)
    elif isinstance(value, torch.Tensor):
        value = value.detach().as_subclass(torch.Tensor)  # type: ignore[arg-type]
    elif isinstance(value, Masks):
        kind, value = f"{kind}: areas,", value.areas()
    else:
        return {"shape": str(value), "type": kind}
    summary: dict[str, Any] = {"shape": list(value.shape), "type": f"{kind} {value.dtype}".replace("torch.", "")}
    known = value
    if value.is_floating_point() and not value.isfinite().all():
        known = value[value.isfinite()]
        summary["type"] += f", {value.numel() - known.numel()} not finite"
    if known.numel():
        mean = known.sum(dtype=torch.float64).item() / known.numel()
        summary |= {"min": known.min().item(), "max": known.max().item(), "mean": mean}
    return summary


def describe_batch(samples: Sequence[Sample]) -> str:
    """A table with a row for each array of each sample, targets included; see ``summarize``."""
    rows = []
    for number, sample in enumerate(samples):
        for name, value in _arrays(sample):
            summary = summarize(value)
            rows.append([f"{number} {name}", *(summary.get(column, "") for column in _COLUMNS[1:])])
    return tabulate(rows, headers=_COLUMNS, floatfmt=".5g", disable_numparse=[1])


def _arrays(sample: Sample) -> list[tuple[str, Any]]:
    arrays: list[tuple[str, Any]] = []
    for field in dataclasses.fields(sample):
        value = getattr(sample, field.name)
        if isinstance(value, Instances):
            arrays += [(f"{field.name}.{name}", inner) for name, inner in value.fields.items()]
        elif value is not None:
            arrays.append((field.name, value))
    return arrays
