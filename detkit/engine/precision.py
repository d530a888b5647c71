"""Mixed precision: what a model's forward pass is computed in."""

import contextlib
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
"""fp32: everything; bf16, fp16: convolutions and matrix products, weights and losses staying in float32."""

_TYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[None]:
    """Within it the device computes in this precision.

    Enter it anew for each forward pass: torch keeps weights that were cast in it, with or without their gradients.

    Raises:
        ValueError: an unknown precision.
    """
    if precision == "fp32":
        return contextlib.nullcontext()
    if precision not in _TYPES:
        raise ValueError(f"precision: expected fp32, {' or '.join(_TYPES)}, got {precision!r}")
    return torch.autocast(device.type, _TYPES[precision])  # type: ignore[return-value]


def gradient_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """Keeps fp16's gradients from underflow: scales losses up, gradients down, skips steps that overflow.

    For the other precisions it does nothing at all.
    """
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
