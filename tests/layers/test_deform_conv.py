"""Deformable convolution: an ordinary one where nothing is moved, shifted where everything is, and its own parts."""

import pytest
import torch
from torch import nn
from torchvision.ops import deform_conv2d

from detkit.layers import ConvNorm, DeformConvNorm


def pair(norm, **options) -> tuple[DeformConvNorm, ConvNorm]:
    """A deformable and an ordinary convolution with the same weights and with norms that are not neutral."""
    deformable, ordinary = (
        kind(6, 8, 3, norm=norm, activation=nn.ReLU(), **options) for kind in (DeformConvNorm, ConvNorm)
    )
    for name, tensor in deformable.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.3, 1.5)
    ordinary.load_state_dict(deformable.state_dict(), strict=True)
    return deformable.eval(), ordinary.eval()


@pytest.mark.parametrize("norm", [None, "BN", "FrozenBN", "GN"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 2}, {"groups": 2}], ids=str)
def test_unmoved_taps_make_a_plain_convolution(norm, bias, options):
    deformable, ordinary = pair(norm, bias=bias, **options)
    x = torch.randn(2, 6, 9, 10)
    wanted = ordinary(x)
    offset = torch.zeros(2, 18, *wanted.shape[2:])
    torch.testing.assert_close(deformable(x, offset), wanted, rtol=1e-4, atol=1e-5)
    ones = torch.ones(2, 9, *wanted.shape[2:])
    torch.testing.assert_close(deformable(x, offset, ones), wanted, rtol=1e-4, atol=1e-5)


def test_the_first_of_two_numbers_moves_down_and_the_second_to_the_right():
    deformable, ordinary = pair("FrozenBN")
    x, offset = torch.randn(1, 6, 9, 10), torch.zeros(1, 18, 9, 10)
    offset[:, 0::2], offset[:, 1::2] = 2, 1
    torch.testing.assert_close(deformable(x, offset)[:, :, 1:5, 1:7], ordinary(x)[:, :, 3:7, 2:8], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_is_the_operator_then_norm_then_activation_in_any_layout(norm):
    deformable, _ = pair(norm, bias=True, groups=2)
    x, offset, mask = torch.randn(2, 6, 9, 10), torch.randn(2, 36, 9, 10), torch.rand(2, 18, 9, 10)
    wanted = deform_conv2d(x, offset, deformable.weight, deformable.bias, padding=(1, 1), mask=mask)
    wanted = deformable.norm(wanted).relu()
    torch.testing.assert_close(deformable(x, offset, mask), wanted, rtol=1e-4, atol=1e-5)
    last = deformable.to(memory_format=torch.channels_last)
    inputs = (t.to(memory_format=torch.channels_last) for t in (x, offset, mask))
    torch.testing.assert_close(last(*inputs), wanted, rtol=1e-4, atol=1e-5)


def test_everything_learns():
    deformable, _ = pair("BN")
    inputs = [torch.randn(s, requires_grad=True) for s in ((1, 6, 5, 5), (1, 18, 5, 5), (1, 9, 5, 5))]
    deformable(*inputs).square().sum().backward()
    for tensor in (*inputs, *deformable.parameters()):
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("modulated", [False, True])
def test_learns_in_mixed_precision(modulated):
    deformable = DeformConvNorm(6, 8, 3, norm="BN").train()
    x, offset = torch.randn(2, 6, 9, 10), torch.randn(2, 18, 9, 10)
    mask = torch.rand(2, 9, 9, 10) if modulated else None
    expected = deformable(x, offset, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = deformable(x.bfloat16(), offset.bfloat16(), None if mask is None else mask.bfloat16())
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.05)
    found.sum().backward()
    assert all(p.grad.isfinite().all() for p in deformable.parameters())
