"""Augmentations that cut a window out of an image, or put it into a larger one."""

import dataclasses
from typing import Literal

import numpy as np

from detkit.data.interfaces import AUGMENTATIONS, Augmentation, Record


@AUGMENTATIONS.register()
class RandomCrop(Augmentation):
    """Cuts out a window at a random place.

    Boxes become those of the visible masks (where there are no masks, they are cut), and what is not visible any more
    is dropped.

    Args:
        size: the window's height and width, as ``kind`` says.
        kind: relative: parts of the image's sides, 0 to 1; relative_range: those are the smallest, drawn up to 1;
            absolute: pixels; absolute_range: pixels from the first number to the second, drawn for each side.
    """

    def __init__(
        self,
        *,
        size: tuple[float, float],
        kind: Literal["relative", "relative_range", "absolute", "absolute_range"] = "relative_range",
    ):
        super().__init__()
        relative = kind.startswith("relative")
        if min(size) <= 0 or (relative and max(size) > 1) or (kind == "absolute_range" and size[0] > size[1]):
            expected = "parts in 0..1" if relative else "pixels, the smaller first" if "range" in kind else "pixels"
            raise ValueError(f"RandomCrop.size: {kind} expects {expected}, got {size}")
        self.size, self.kind = size, kind

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        height, width = record.image.shape[:2]
        window = self._window(height, width, rng)
        y, x = (int(rng.integers(side - cut + 1)) for side, cut in zip((height, width), window))
        return crop_record(record, x, y, *window)

    def _window(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
        first, second = self.size
        if self.kind == "absolute":
            return min(height, int(first)), min(width, int(second))
        if self.kind == "absolute_range":
            low, high = int(first), int(second)
            tall = rng.integers(min(height, low), min(height, high) + 1)
            return int(tall), int(rng.integers(min(width, low), min(width, high) + 1))
        if self.kind == "relative_range":
            first, second = (low + rng.random() * (1 - low) for low in self.size)
        return max(1, int(height * first + 0.5)), max(1, int(width * second + 0.5))


@AUGMENTATIONS.register()
class FixedSizeCrop(Augmentation):
    """Gives every image one size: what is larger is cut at a random place, what is smaller is padded right and below.

    Args:
        size: ``(height, width)`` in pixels.
        pad_value: the padding's value in all channels, 0 to 255.
    """

    def __init__(self, *, size: tuple[int, int] = (1024, 1024), pad_value: int = 128):
        super().__init__()
        if min(size) < 1 or not 0 <= pad_value <= 255:
            raise ValueError(f"FixedSizeCrop: size {size}, pad_value {pad_value} (expected 0..255)")
        self.size, self.pad_value = size, pad_value

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        share = rng.random()
        slack = [max(0, side - wanted) for side, wanted in zip(record.image.shape, self.size)]
        return crop_record(record, round(slack[1] * share), round(slack[0] * share), *self.size, self.pad_value)


def crop_record(record: Record, x: int, y: int, height: int, width: int, pad_value: int = 0) -> Record:
    """The record in the window whose corner is (x, y); where it reaches over the image, it is padded.

    Boxes become those of the visible masks, or are cut where there are no masks; what is empty then is dropped.
    """
    h, w = record.image.shape[:2]
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + width, w), min(y + height, h)
    limits = np.array([x1, y1, max(x1, x2), max(y1, y2)], np.float32)
    corner = np.array([x, y, x, y], np.float32)
    cut = np.clip(record.boxes, limits[[0, 1, 0, 1]], limits[[2, 3, 2, 3]]) - corner
    masks = None if record.masks is None else record.masks.crop(x, y, height, width)
    if masks is not None:
        whole = (cut == record.boxes - corner).all(1)  # nothing of it was cut off: keep the box as annotated
        cut = np.where(whole[:, None], cut, masks.boxes().numpy())
    out = dataclasses.replace(
        record,
        image=_crop_image(record.image, x, y, height, width, pad_value),
        boxes=cut.astype(np.float32),
        masks=masks,
        window=_crop_window(record, x, y, height, width),
    )
    return out.select((out.boxes[:, 2] > out.boxes[:, 0]) & (out.boxes[:, 3] > out.boxes[:, 1]))


def pad_record(record: Record, x: int, y: int, height: int, width: int, pad_value: int = 0) -> Record:
    """The record with its image at (x, y) in a larger one of ``(height, width)``; nothing of it is cut or dropped."""
    return dataclasses.replace(
        record,
        image=_crop_image(record.image, -x, -y, height, width, pad_value),
        boxes=record.boxes + np.array([x, y, x, y], np.float32),
        masks=None if record.masks is None else record.masks.crop(-x, -y, height, width),
        window=_crop_window(record, -x, -y, height, width),
    )


def _crop_image(image: np.ndarray, x: int, y: int, height: int, width: int, pad_value: int) -> np.ndarray:
    h, w = image.shape[:2]
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + width, w), min(y + height, h)
    if (x1, y1, x2, y2) == (x, y, x + width, y + height):
        return image[y1:y2, x1:x2]
    x2, y2 = max(x1, x2), max(y1, y2)
    out = np.full((height, width, image.shape[2]), pad_value, image.dtype)
    out[y1 - y : y2 - y, x1 - x : x2 - x] = image[y1:y2, x1:x2]
    return out


def _crop_window(record: Record, x: int, y: int, height: int, width: int) -> tuple[int, int, int, int] | None:
    """Where the picture lies in a crop; None where it fills it. Without any of the picture the window is empty."""
    h, w = record.image.shape[:2]
    x1, y1, x2, y2 = record.window or (0, 0, w, h)
    left, right = (min(max(side - x, 0), width) for side in (x1, x2))
    top, bottom = (min(max(side - y, 0), height) for side in (y1, y2))
    whole = (left, top, right, bottom) == (0, 0, width, height)
    return None if whole and record.window is None else (left, top, right, bottom)
