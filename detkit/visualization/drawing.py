"""Drawing: an image with shapes and labels on it. N shapes have N colours."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from detkit.structures import CroppedMasks
from detkit.visualization.colors import text_color
from detkit.visualization.fonts import draw_text, shortened, text_width, writable
from detkit.visualization.inputs import ImageLike, to_array

MIN_SIDE = 640
"""Smaller images are enlarged, or their labels could not be read."""
MAX_SIDE = 1600
"""Larger images are shrunk, so that a screen shows them whole."""
_MIN_SHORT_SIDE = 240
"""Of an image that is shrunk: a long strip stays up to four times as long as others."""
_OPACITY = 0.42
_SEEN = 0.05
"""Keypoints of less visibility or score are not drawn."""

Colors = np.ndarray | tuple[int, int, int]
"""``(N, 3)`` uint8 RGB, or one colour for all."""


Place = tuple[int, int, int, int]
"""Where a label stands: x1, y1, x2, y2, half-open, in whole pixels."""


class Drawing:
    """An image that is drawn on, enlarged or shrunk to a size for screens. What is drawn later lies on top.

    A field of instances that has a method ``draw(drawing, colors)``, with the N colours of its rows, draws itself by
    these methods.

    Args:
        image: an array, a tensor, a PIL image or a file, as ``to_array`` takes them; of a tensor with other than 1, 3
            or 4 channels the first ones are shown.
        size: ``(height, width)`` of the image in whose pixels shapes are given; None: of ``image``.
        min_side: an image whose longer side is shorter is enlarged to it.
        max_side: an image whose longer side is longer is shrunk to it; None: none is.

    Attributes:
        line: how many pixels wide a line is, in proportion to the image.
    """

    def __init__(
        self,
        image: ImageLike,
        size: tuple[int, int] | None = None,
        min_side: int = MIN_SIDE,
        max_side: int | None = MAX_SIDE,
    ):
        if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] not in (1, 3, 4):
            image = image[:3] if image.shape[0] > 4 else image[:1]
        self._image = Image.fromarray(to_array(image))
        height, width = size or (self._image.height, self._image.width)
        scale = max(1.0, min_side / max(self._image.size))
        if max_side is not None and max(self._image.size) > max(max_side, min_side):
            shrunk = max_side / max(self._image.size)
            scale = min(1.0, max(shrunk, min(4 * shrunk, _MIN_SHORT_SIDE / min(self._image.size))))
        if scale != 1:
            drawn = (max(1, round(self._image.width * scale)), max(1, round(self._image.height * scale)))
            self._image = self._image.resize(drawn, Image.Resampling.BICUBIC)
        self._scale = np.array([self._image.width / width, self._image.height / height])
        self._side = math.sqrt(self._image.width * self._image.height)
        self.line = max(1, round(self._side / 350))
        self._taken: list[Place] = []

    def array(self) -> np.ndarray:
        """The image as it is now, ``(H', W', 3)`` uint8."""
        return np.asarray(self._image).copy()

    def masks(self, bitmaps: Sequence[Any] | CroppedMasks, colors: Colors) -> None:
        """Fills and outlines N masks of whole images, ``(H, W)`` bool, the largest first, so that small ones show."""
        pixels = np.asarray(self._image).astype(np.float32)
        table, size, line = _table(colors, len(bitmaps)), self._image.size, self.line
        areas = np.array([np.count_nonzero(bitmaps[i]) for i in range(len(bitmaps))])  # one at a time
        for i in np.argsort(-areas, kind="stable").tolist():
            shape = _enlarged_mask(np.asarray(bitmaps[i]), size)
            bounds = shape.getbbox()
            if bounds is None:
                continue
            x1, y1, x2, y2 = bounds
            grown = (max(x1 - line, 0), max(y1 - line, 0), min(x2 + line, size[0]), min(y2 + line, size[1]))
            part = shape.crop(grown)
            inside = np.asarray(part) > 0
            edge = inside & (np.asarray(part.filter(ImageFilter.MinFilter(2 * line + 1))) == 0)
            view = pixels[grown[1] : grown[3], grown[0] : grown[2]]
            color = table[i].astype(np.float32)
            view[inside] = (1 - _OPACITY) * view[inside] + _OPACITY * color
            view[edge] = 0.15 * view[edge] + 0.85 * color
        self._image = Image.fromarray(pixels.round().astype(np.uint8))

    def boxes(
        self, boxes: np.ndarray, colors: Colors, width: int | None = None, *, dashed: np.ndarray | bool = False
    ) -> None:
        """Outlines ``(N, 4)`` xyxy boxes inside their half-open bounds, the first on top, ``width`` pixels wide.

        ``dashed`` ones, ``(N,)`` bool or all, have dashes with black between them, which show on any image."""
        pen, table = ImageDraw.Draw(self._image), _table(colors, len(boxes))
        marks, width = np.broadcast_to(dashed, len(boxes))[::-1].tolist(), width or self.line
        for box, color, mark in zip(self._scaled(boxes)[::-1].tolist(), table[::-1].tolist(), marks):
            x1, y1, x2, y2 = map(round, box)
            corners = (x1, y1, max(x2 - 1, x1), max(y2 - 1, y1))
            pen.rectangle(corners, outline=(0, 0, 0) if mark else tuple(color), width=width)
            for dash in _dashes(corners, width) if mark else ():
                pen.rectangle(dash, fill=tuple(color))

    def lines(self, ends: np.ndarray, colors: Colors) -> None:
        """Draws N straight lines from point to point, ``(N, 4)`` x1, y1, x2, y2."""
        pen = ImageDraw.Draw(self._image)
        for line, color in zip(self._scaled(ends).tolist(), _table(colors, len(ends)).tolist()):
            pen.line(line, fill=tuple(color), width=2 * self.line)

    def points(self, points: np.ndarray, colors: Colors) -> None:
        """Draws discs with a white rim at ``(N, 2)`` points."""
        pen, radius = ImageDraw.Draw(self._image), 2 * self.line
        places = np.asarray(points, np.float64).reshape(-1, 2) * self._scale
        for (x, y), color in zip(places.tolist(), _table(colors, len(places)).tolist()):
            for r, fill in ((radius + self.line, (255, 255, 255)), (radius, tuple(color))):
                pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def keypoints(self, keypoints: np.ndarray, colors: Colors, skeleton: Sequence[tuple[int, int]]) -> None:
        """Draws ``(N, P, 3)`` keypoints, x, y and visibility or score, with the skeleton's lines between seen ones."""
        for points, color in zip(keypoints, _table(colors, len(keypoints))):
            seen = points[:, 2] > _SEEN
            edges = [(a, b) for a, b in skeleton if seen[a] and seen[b]]
            self.lines(np.array([[*points[a, :2], *points[b, :2]] for a, b in edges]).reshape(-1, 4), tuple(color))
            self.points(points[seen, :2], tuple(color))

    def labels(self, boxes: np.ndarray, texts: Sequence[str], colors: Colors) -> None:
        """Writes texts at ``(N, 4)`` boxes, the first at the best places; an empty one is none.

        A label that would lie on another one is moved, and left out where there is no place for it; one that is wider
        than the image is shortened.
        """
        num = sum(map(bool, texts))
        size = self._side / 42 * (1.0 if num <= 15 else 0.85 if num <= 40 else 0.7)
        size = max(10, min(round(size), 48))
        pen = ImageDraw.Draw(self._image)
        for box, given, color in zip(self._scaled(boxes), texts, _table(colors, len(boxes))):
            text = shortened(writable(given), size, self._image.width - size * 0.5)
            width, height = round(text_width(text, size) + size * 0.5), round(size * 1.3)
            place = free_place(box, width, height, self._image.size, self._taken) if text else None
            if place is None:
                continue
            self._taken.append(place)
            x1, y1, x2, y2 = place
            pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=tuple(color.tolist()))
            draw_text(pen, (x1 + size * 0.25, (y1 + y2) / 2), text, size, text_color(color))

    def _scaled(self, corners: np.ndarray) -> np.ndarray:
        return np.asarray(corners, np.float64).reshape(-1, 4) * np.tile(self._scale, 2)


def _table(colors: Colors, num: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(colors, np.uint8).reshape(-1, 3), (num, 3))


def _dashes(corners: Place, width: int) -> Iterator[tuple[float, float, float, float]]:
    """The dashes along the sides of a rectangle, whose last row and column are in it; each side begins with one."""
    x1, y1, x2, y2 = corners
    inner = width - 1
    for start in range(x1, x2 + 1, 7 * width):
        end = min(start + 4 * width - 1, x2)
        yield from ((start, y1, end, min(y1 + inner, y2)), (start, max(y2 - inner, y1), end, y2))
    for start in range(y1, y2 + 1, 7 * width):
        end = min(start + 4 * width - 1, y2)
        yield from ((x1, start, min(x1 + inner, x2), end), (max(x2 - inner, x1), start, x2, end))


def _enlarged_mask(bitmap: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The mask (0 or 255) in an image of ``(width, height)``, its steps rounded off."""
    shape = Image.fromarray(bitmap.astype(np.uint8) * 255)
    scale = size[0] / shape.width
    if shape.size != size:
        shape = shape.resize(size, Image.Resampling.BILINEAR)
        if scale > 2:
            shape = shape.filter(ImageFilter.GaussianBlur(0.5 * scale))
        shape = shape.point([0] * 128 + [255] * 128)
    return shape


def free_place(
    box: np.ndarray, width: int, height: int, image_size: tuple[int, int], taken: list[Place]
) -> Place | None:
    """Above the box, inside its top, below it, at its right and lower corners: the first that is free in the image."""
    if width > image_size[0]:
        return None
    x1, y1, x2, y2 = (round(v) for v in box.tolist())
    left, right = [(x1, y1 - height), (x1, y1), (x1, y2)], [(x2 - width, y1 - height), (x2 - width, y2 - height)]
    for x, y in [*left, *right, (x1, y2 - height), (x2 - width, y2), (x2, y1)]:
        x = min(max(x, 0), image_size[0] - width)
        if y < 0 or y + height > image_size[1]:
            continue
        place = (x, y, x + width, y + height)
        if not any(place[0] < p[2] and p[0] < place[2] and place[1] < p[3] and p[1] < place[3] for p in taken):
            return place
    return None
