"""One function that makes a model fast at prediction, and leaves the given one alone."""

import copy
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.inference.folding import fold_norms
from detkit.layers import DeformConvNorm, FrozenBN
from detkit.modeling.compiling import compile_parts
from detkit.modeling.preprocess import Preprocess

M = TypeVar("M", bound=nn.Module)

Precision = Literal["fp32", "bf16"]
"""What convolutions and linear layers are computed in. Boxes, scores and masks are made in float32 in any case."""

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}

_FLOAT32_ALONE = (_BatchNorm, FrozenBN, DeformConvNorm)
"""Norms, which take maps of lower precision as they are, and an operator that has no other precision on the CPU."""


def optimized(model: M, precision: Precision = "fp32", compile: bool = False) -> M:
    """A copy of the model that predicts faster.

    Maps are channels-last and batch norms folded into convolutions. The results are the same to rounding.

    Args:
        model: a meta-architecture, on its device. It stays as it is; the copy shares nothing with it.
        precision: see ``Precision``. bf16 halves weights and maps; worth it where the processor has instructions for
            it (AVX-512 BF16, AMX, GPUs from Ampere on).
        compile: whether backbone, neck and heads go through ``torch.compile``; see ``compile_parts``.

    Returns:
        A model in evaluation mode. It can neither be trained nor saved.

    Raises:
        ValueError: an unknown precision.
        ConfigError: there is nothing to compile with.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision: expected one of {', '.join(DTYPES)}, got {precision!r}")
    dtype, fast = DTYPES[precision], copy.deepcopy(model).eval().requires_grad_(False)
    fold_norms(fast)
    for part in fast.modules():
        if isinstance(part, Preprocess):
            part.channels_last = True
    fast.to(memory_format=torch.channels_last)
    if dtype != torch.float32:
        lower(fast, dtype)
    if compile:
        compile_parts(fast)
    return fast


def lower(model: nn.Module, dtype: torch.dtype) -> None:
    """Gives every layer with parameters of its own the dtype; it casts what it is given."""
    for part in model.modules():
        if next(part.parameters(recurse=False), None) is None or isinstance(part, _BatchNorm | FrozenBN):
            continue
        if not isinstance(part, _FLOAT32_ALONE):
            part.to(dtype)
        part.register_forward_pre_hook(_cast_inputs)


def _cast_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    dtype = next(module.parameters(recurse=False)).dtype
    return tuple(_cast(x, dtype) for x in inputs)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors, and lists of them, in the dtype."""
    if isinstance(value, list):
        return [_cast(item, dtype) for item in value]
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
