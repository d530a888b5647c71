"""Crop and resize: against its definition, one sample after the other, and against grid_sample."""

import math

import pytest
import torch
from torch.nn import functional as F

from detkit.layers import crop_and_resize


def by_definition(image: torch.Tensor, box: list[float], size: int) -> torch.Tensor:
    """TensorFlow's documentation read aloud, for one box of one ``(C, H, W)`` image."""
    height, width = image.shape[1:]
    x1, y1, x2, y2 = box
    out = torch.zeros(len(image), size, size, dtype=image.dtype)
    for i in range(size):
        for j in range(size):
            y, x = ((y1 + y2) / 2 * (height - 1), (x1 + x2) / 2 * (width - 1))
            if size > 1:
                y = y1 * (height - 1) + i * (y2 - y1) * (height - 1) / (size - 1)
                x = x1 * (width - 1) + j * (x2 - x1) * (width - 1) / (size - 1)
            if not (0 <= y <= height - 1 and 0 <= x <= width - 1):
                continue
            top, left = min(math.floor(y), height - 1), min(math.floor(x), width - 1)
            bottom, right = math.ceil(y), math.ceil(x)
            upper = image[:, top, left] * (1 - (x - left)) + image[:, top, right] * (x - left)
            lower = image[:, bottom, left] * (1 - (x - left)) + image[:, bottom, right] * (x - left)
            out[:, i, j] = upper * (1 - (y - top)) + lower * (y - top)
    return out


def some_boxes(n: int) -> torch.Tensor:
    """Inside, across the border, outside, empty and turned around."""
    corner = torch.rand(n, 2) * 1.2 - 0.2
    boxes = torch.cat([corner, corner + torch.rand(n, 2)], dim=1)
    boxes[0] = torch.tensor([1.5, 1.5, 2.0, 2.0])
    boxes[1, 2:] = boxes[1, :2]
    boxes[2] = boxes[3, [2, 3, 0, 1]]
    boxes[4] = torch.tensor([0.0, 0, 1, 1])
    return boxes


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_its_definition(size, channels_last):
    features, boxes, index = torch.randn(3, 4, 9, 13), some_boxes(20), torch.randint(0, 3, (20,))
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    got = crop_and_resize(features, boxes, index, size)
    assert got.shape == (20, 4, size, size)
    for crop, box, i in zip(got, boxes.tolist(), index.tolist()):
        torch.testing.assert_close(crop, by_definition(features[i], box, size), atol=1e-5, rtol=1e-5)


def test_values_and_gradients_equal_grid_sample_inside_the_map():
    ours = torch.randn(2, 3, 12, 10, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    low = torch.rand(30, 2) * 0.5
    boxes, index = torch.cat([low, low + torch.rand(30, 2) * 0.49], dim=1), torch.arange(2).repeat_interleave(15)
    steps = torch.linspace(0, 1, 7)
    xs = boxes[:, 0, None] + steps * (boxes[:, 2] - boxes[:, 0])[:, None]
    ys = boxes[:, 1, None] + steps * (boxes[:, 3] - boxes[:, 1])[:, None]
    grid = torch.stack([xs[:, None, :].expand(-1, 7, -1), ys[:, :, None].expand(-1, -1, 7)], dim=3) * 2 - 1
    a = crop_and_resize(ours, boxes, index, 7)
    b = F.grid_sample(theirs[index], grid, align_corners=True)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    grad = torch.randn_like(a)
    a.backward(grad)
    b.backward(grad)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)


def test_the_whole_map_at_its_own_size_is_the_map():
    features = torch.randn(1, 3, 9, 9)
    assert torch.equal(crop_and_resize(features, torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0]), 9), features)


def test_gradients_stop_at_the_boxes():
    features, boxes = torch.randn(1, 3, 8, 8, requires_grad=True), some_boxes(6).requires_grad_()
    crop_and_resize(features, boxes, torch.zeros(6), 3).sum().backward()
    assert boxes.grad is None
    assert features.grad.abs().sum() > 0


def test_bitmaps_are_read_as_numbers():
    masks = torch.rand(5, 1, 11, 9) > 0.5
    boxes = some_boxes(5)
    got = crop_and_resize(masks, boxes, torch.arange(5), 4)
    assert got.dtype == torch.float32
    assert torch.equal(got, crop_and_resize(masks.float(), boxes, torch.arange(5), 4))


def test_no_boxes_keep_the_graph_and_odd_boxes_are_zero():
    features = torch.randn(2, 4, 8, 8, requires_grad=True)
    out = crop_and_resize(features, torch.zeros(0, 4), torch.zeros(0), 7)
    assert out.shape == (0, 4, 7, 7)
    out.sum().backward()
    assert features.grad.abs().sum() == 0
    odd = torch.tensor([[math.nan] * 4, [math.inf] * 4, [-1e30, 0, 1e30, 1]])
    assert not crop_and_resize(features, odd, torch.zeros(3), 4).any()


def test_a_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match="size of at least 1, got 0"):
        crop_and_resize(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4), torch.zeros(1), 0)
