"""SAME padding: TensorFlow's sizes, and its odd pixel at the right and at the bottom."""

import pytest
import torch
from torch.nn import functional as F

from detkit.layers import SamePad2d, same_pad


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_as_many_cells_as_strides_fit_and_no_pixel_too_many(kernel_size, stride):
    for height, width in ((8, 9), (7, 12), (1, 5)):
        x = torch.rand(1, 1, height, width)
        padded = same_pad(x, kernel_size, stride)
        out = F.max_pool2d(padded, kernel_size, stride)
        assert out.shape[2:] == (-(-height // stride), -(-width // stride))
        for side, new in zip((height, width), padded.shape[2:]):
            assert new == side or (new - kernel_size) % stride == 0
        top, left = (padded.shape[2] - height) // 2, (padded.shape[3] - width) // 2
        assert torch.equal(padded[:, :, top : top + height, left : left + width], x)
        assert padded.sum() == pytest.approx(x.sum().item(), rel=1e-6)


def test_even_sides_are_padded_right_and_below_only():
    padded = same_pad(torch.ones(1, 1, 4, 6), 3, 2, value=-1)
    assert padded.shape == (1, 1, 5, 7)
    assert (padded[:, :, :4, :6] == 1).all()
    assert (padded[:, :, 4] == -1).all()
    assert (padded[:, :, :, 6] == -1).all()


def test_height_and_width_are_not_swapped():
    assert same_pad(torch.zeros(1, 1, 5, 8), 3, 2).shape == (1, 1, 7, 9)


def test_the_module_is_the_function():
    x = torch.randn(2, 3, 10, 7)
    assert torch.equal(SamePad2d(3, 2)(x), same_pad(x, 3, 2))
    assert "kernel_size=3, stride=2" in repr(SamePad2d(3, 2))


def test_no_kernel_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0 and 2"):
        same_pad(torch.zeros(1, 1, 4, 4), 0, 2)
