"""Crop and resize: one bilinear sample a bin, as TensorFlow's operator of that name takes it."""

import torch
from torch import Tensor


def crop_and_resize(features: Tensor, boxes: Tensor, image_index: Tensor, size: int) -> Tensor:
    """Bilinear samples on an S x S grid whose corner samples are the box's corners (TensorFlow's ``crop_and_resize``).

    0 and 1 are the centres of the first and of the last pixel: sample i of S lies at
    ``x1 * (W - 1) + i * (x2 - x1) * (W - 1) / (S - 1)``, for S = 1 in the middle of the box. A sample outside the map
    is 0. Gradients reach the features, never the boxes.

    Args:
        features: ``(N, C, H, W)``; bool and integers are read as numbers.
        boxes: ``(R, 4)`` xyxy, in 0..1 of the map.
        image_index: ``(R,)`` integer: which of the N maps each box is cut from.
        size: S.

    Returns:
        ``(R, C, S, S)``, of the features' type (float32 where that is no floating point).

    Raises:
        ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"crop_and_resize: expected a size of at least 1, got {size}")
    num, channels, height, width = features.shape
    boxes = boxes.detach().float()
    top, bottom, down, inside_y = _samples(boxes[:, 1], boxes[:, 3], size, height)
    left, right, across, inside_x = _samples(boxes[:, 0], boxes[:, 2], size, width)
    first = (image_index.long() * height)[:, None]
    top, bottom = ((first + y)[:, :, None] * width for y in (top, bottom))
    pixels = features.permute(0, 2, 3, 1).reshape(num * height * width, channels)  # a view where it is channels-last

    def corner(y: Tensor, x: Tensor) -> Tensor:
        """``(R, S, S, C)`` values where rows, which begin at pixels ``y`` (R, S, 1), meet columns ``x`` (R, S)."""
        values = pixels.index_select(0, (y + x[:, None, :]).reshape(-1)).reshape(len(boxes), size, size, channels)
        return values if values.is_floating_point() else values.float()

    upper_left, upper_right = corner(top, left), corner(top, right)
    across = across[:, None, :, None].to(upper_left.dtype)
    upper = upper_left + (upper_right - upper_left) * across
    lower_left, lower_right = corner(bottom, left), corner(bottom, right)
    lower = lower_left + (lower_right - lower_left) * across
    value = upper + (lower - upper) * down[:, :, None, None].to(upper.dtype)
    inside = (inside_y[:, :, None] & inside_x[:, None, :])[..., None]
    return value.masked_fill(~inside, 0).permute(0, 3, 1, 2)


def _samples(low: Tensor, high: Tensor, count: int, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of one axis, each ``(R, count)``: the pixels before and after a sample, its way between them, is it inside."""
    if count == 1:
        at = (0.5 * (low + high) * (size - 1))[:, None]
    else:
        step = (high - low) * (size - 1) / (count - 1)
        at = (low * (size - 1))[:, None] + torch.arange(count, device=low.device) * step[:, None]
    inside = (at >= 0) & (at <= size - 1)
    before = at.floor()
    after = at.ceil().long().clamp(0, size - 1)
    return before.long().clamp(0, size - 1), after, at - before, inside
