"""What the machine's arithmetic allows: floating-point operations over the rate of a plain matrix product."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from benchmarks.timing import Candidate

_PRODUCTS = ("conv", "addmm", "linear", "matmul", "bmm", "mm")
"""Operators that multiply and add; fvcore counts each such pair as one."""


def matrix_product(dtype: torch.dtype, device: torch.device, size: int = 2048) -> Candidate:
    """A product of two square matrices, whose rate is the limit of everything that is made of products."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(a)
    name = str(dtype).removeprefix("torch.")
    return Candidate(f"matrix product {name}", lambda: torch.mm(a, b, out=out), flops=2.0 * size**3, memory=False)


class _Flat(nn.Module):
    """A detector of torchvision as a function from tensors to tensors, which can be traced."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Every output of every ``(3, H, W)`` image, one after the other."""
        return tuple(value for found in self.model(list(images)) for value in found.values())


def count_flops(model: nn.Module, images: Sequence[Tensor]) -> float:
    """Floating-point operations of the convolutions and matrix products of torchvision's detector on these images.

    Counted by fvcore on a traced run; a multiplication and an addition are two operations.
    """
    counted: Any = FlopCountAnalysis(_Flat(model), tuple(images))
    counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    by_operator = counted.by_operator()
    return 2.0 * sum(count for name, count in by_operator.items() if name in _PRODUCTS)
