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
    height, width = features.shape[-2:]
    pixels = features.permute(0, 2, 3, 1).flatten(0, 2)  # (N * H * W, C): a view where the map is channels-last
    first = image_index.long()[:, None] * (height * width)
    return crop_pixels(pixels, boxes, first, (height, width), size)


def crop_pixels(
    pixels: Tensor, boxes: Tensor, first: Tensor, sides: "tuple[int | Tensor, int | Tensor]", size: int
) -> Tensor:
    """``crop_and_resize`` from the pixels of maps of several sizes.

    Args:
        pixels: ``(P, C)`` of all maps, row by row.
        boxes: ``(R, 4)`` xyxy, in 0..1 of their maps.
        first: ``(R, 1)`` integer: where in ``pixels`` the map of each box begins.
        sides: height and width of the maps; tensors ``(R, 1)`` where they differ.
        size: S.

    Returns:
        ``(R, C, S, S)``.
    """
    boxes, width = boxes.detach().float(), sides[1]
    top, bottom, down, inside_y = _samples(boxes[:, 1:2], boxes[:, 3:], size, sides[0])
    left, right, across, inside_x = _samples(boxes[:, :1], boxes[:, 2:3], size, width)

    def corner(y: Tensor, x: Tensor) -> Tensor:
        """``(R, S, S, C)`` values where rows ``y`` (R, S) meet columns ``x`` (R, S)."""
        at = ((first + y * width)[:, :, None] + x[:, None, :]).reshape(-1)
        values = pixels.index_select(0, at).reshape(boxes.shape[0], size, size, pixels.shape[1])
        return values if values.is_floating_point() else values.float()

    upper_left, upper_right = corner(top, left), corner(top, right)
    across = across[:, None, :, None].to(upper_left.dtype)
    upper = upper_left + (upper_right - upper_left) * across
    lower_left, lower_right = corner(bottom, left), corner(bottom, right)
    lower = lower_left + (lower_right - lower_left) * across
    value = upper + (lower - upper) * down[:, :, None, None].to(upper.dtype)
    inside = (inside_y[:, :, None] & inside_x[:, None, :])[..., None]
    return value.masked_fill(~inside, 0).permute(0, 3, 1, 2)


def _samples(low: Tensor, high: Tensor, count: int, size: "int | Tensor") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of one axis, each ``(R, count)``: the pixels before and after a sample, its way between them, is it inside.

    ``low`` and ``high`` are ``(R, 1)``.
    """
    last = size - 1
    if count == 1:
        at = 0.5 * (low + high) * last
    else:
        step = (high - low) * last / (count - 1)
        at = low * last + torch.arange(count, device=low.device) * step
    before, after = at.floor(), at.ceil()
    low_pixel, high_pixel = (pixel.long().clamp(min=0).clamp(max=last) for pixel in (before, after))
    return low_pixel, high_pixel, at - before, (at >= 0) & (at <= last)
