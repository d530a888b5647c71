"""Convolutions by Winograd's algorithm: what a direct convolution gives, with no more rounding."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detkit.inference import optimized, winograd
from detkit.inference.packed import PackedConv, can_pack
from detkit.inference.winograd import RowWinograd
from detkit.layers import ConvNorm

SIZES = [(1, 64, 64), (2, 9, 13), (1, 1, 1), (3, 2, 4), (1, 33, 6), (1, 5, 130)]


@pytest.mark.parametrize("columns", [1, 40, 400])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_a_direct_convolution_in_double_precision(monkeypatch, size, bias, columns):
    monkeypatch.setattr(winograd, "COLUMNS_AT_ONCE", columns)
    images, height, width = size
    conv = nn.Conv2d(20, 12, 3, padding=1, bias=bias)
    x = torch.randn(images, 20, height, width).contiguous(memory_format=torch.channels_last)
    by_rows = RowWinograd(conv)
    wanted = conv.double()(x.double())
    for relu in (False, True):
        found = by_rows(x, relu)
        assert found.dtype == torch.float32
        assert found.shape == wanted.shape
        torch.testing.assert_close(found.double(), wanted.relu() if relu else wanted, atol=5e-6, rtol=1e-5)


def test_it_rounds_no_more_than_a_direct_convolution():
    conv = nn.Conv2d(256, 64, 3, padding=1)
    x = torch.randn(1, 256, 64, 64).relu().contiguous(memory_format=torch.channels_last)
    wanted = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    own = (RowWinograd(conv)(x, relu=False) - wanted).square().mean().sqrt()
    direct = (conv(x) - wanted).square().mean().sqrt()
    assert own < 1.5 * direct


def test_packed_convolutions_take_it_for_wide_filters_of_large_maps(monkeypatch):
    used = []
    call = RowWinograd.__call__
    monkeypatch.setattr(RowWinograd, "__call__", lambda self, x, relu: used.append(x.shape) or call(self, x, relu))
    conv = nn.Conv2d(128, 128, 3, padding=1)
    packed = PackedConv(conv, torch.float32, winograd=True)
    for side, large in ((64, True), (63, False)):
        x = torch.randn(1, 128, side, side)
        torch.testing.assert_close(packed(x), conv(x), atol=1e-5, rtol=1e-5)
        assert bool(used) == large
        used.clear()
    x = torch.randn(1, 128, 64, 64)
    for options in ({"stride": 2}, {"dilation": 2}, {"padding": 0}, {"groups": 2}, {"kernel_size": 1}):
        other = nn.Conv2d(128, 128, **{"kernel_size": 3, "padding": 1, **options})
        torch.testing.assert_close(PackedConv(other, torch.float32, winograd=True)(x), other(x), atol=1e-5, rtol=1e-5)
    narrow = nn.Conv2d(128, 127, 3, padding=1)
    torch.testing.assert_close(PackedConv(narrow, torch.float32, winograd=True)(x), narrow(x), atol=1e-5, rtol=1e-5)
    assert not used


def test_only_uncompiled_copies_in_fp32_take_it(monkeypatch):
    monkeypatch.setattr("detkit.inference.optimize.compile_parts", lambda model: None)
    wide = nn.Sequential(ConvNorm(128, 128, 3), ConvNorm(16, 16, 3))

    def taken(**options):
        return [part.by_rows is not None for part in optimized(wide, **options)]

    assert taken() == [True, False]
    assert taken(compile=True) == [False, False]
    if can_pack(torch.bfloat16):
        assert taken(precision="bf16") == [False, False]
