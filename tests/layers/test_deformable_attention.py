"""Deformable attention: against its definition, one place after the other."""

import math

import pytest
import torch

from detkit.layers import deformable_attention

SIZES = [(3, 5), (2, 2), (1, 4)]


def inputs(batch: int = 2, queries: int = 4, heads: int = 3, points: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(batch, sum(h * w for h, w in SIZES), heads, 6, generator=generator).double()
    locations = torch.rand(batch, queries, heads, len(SIZES), points, 2, generator=generator).double() * 1.6 - 0.3
    weights = torch.rand(batch, queries, heads, len(SIZES), points, generator=generator).double()
    return value, locations, weights


def read(image: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """``(C,)`` of ``(H, W, C)`` between four pixel centres; 0 outside of the map."""
    height, width = image.shape[:2]
    at_x, at_y = x * width - 0.5, y * height - 0.5
    total = torch.zeros_like(image[0, 0])
    for row in (math.floor(at_y), math.floor(at_y) + 1):
        for column in (math.floor(at_x), math.floor(at_x) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += image[row, column] * (1 - abs(at_y - row)) * (1 - abs(at_x - column))
    return total


def test_equals_its_definition():
    value, locations, weights = inputs()
    result = deformable_attention(value, SIZES, locations, weights).unflatten(2, (3, 6))
    for b, q, m in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(3)).tolist():
        wanted, start = torch.zeros(6).double(), 0
        for level, (height, width) in enumerate(SIZES):
            image = value[b, start : start + height * width, m].reshape(height, width, 6)
            start += height * width
            for p in range(2):
                wanted += weights[b, q, m, level, p] * read(image, *locations[b, q, m, level, p].tolist())
        torch.testing.assert_close(result[b, q, m], wanted)


def test_gradients_reach_values_places_and_weights():
    some = [part.requires_grad_() for part in inputs(batch=1, queries=2, heads=2)]
    assert torch.autograd.gradcheck(lambda *parts: deformable_attention(parts[0], SIZES, *parts[1:]), some)


@pytest.mark.parametrize("sizes", [SIZES[:2], [(3, 5), (2, 2), (1, 3)]])
def test_maps_that_do_not_fit_are_named(sizes):
    value, locations, weights = inputs()
    with pytest.raises(ValueError, match="23 places and locations are of 3 maps"):
        deformable_attention(value, sizes, locations, weights)


def test_no_query_is_no_row():
    value, locations, weights = inputs(queries=0)
    assert deformable_attention(value, SIZES, locations, weights).shape == (2, 0, 18)
