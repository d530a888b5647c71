"""Instances drawn on images: masks, boxes and labels, for ground truth and for predictions."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from detkit.structures import Instances
from detkit.visualization.colors import palette, text_color
from detkit.visualization.inputs import ImageLike, to_array

ColorBy = Literal["auto", "class", "instance"]
MIN_SIDE = 640  # smaller images are enlarged, or their labels could not be read
_FILL = 0.42


def draw_instances(
    image: ImageLike,
    instances: Instances,
    class_names: Sequence[str] = (),
    *,
    score_thresh: float = 0.0,
    color_by: ColorBy = "auto",
    min_side: int = MIN_SIDE,
) -> np.ndarray:
    """A picture of an image with its instances.

    Masks are translucent with a contour; labels give the class and, for predictions, the score. A label that would
    lie on another one is moved, and left out where there is no room.

    Args:
        image: ``(H, W, 3)`` or ``(H, W)`` uint8 array, ``(3, H, W)`` uint8 tensor, PIL image, or a file; RGB.
        instances: ``boxes`` and, where there are any, ``classes``, ``scores``, ``masks``. They may be in other pixels
            than ``image`` (``image_size``): they are scaled to it.
        class_names: the K names; without them labels give class numbers.
        score_thresh: predictions below this score are not drawn.
        color_by: what has a colour of its own; ``auto``: the class where there are several, else the instance.
        min_side: an image whose longer side is shorter is enlarged to it.

    Returns:
        ``(H', W', 3)`` uint8.

    Raises:
        ValueError: the image has another type or shape.
        DataError: a file that cannot be read.
    """
    canvas = _canvas(image, min_side)
    if "scores" in instances:
        instances = instances[instances.scores >= score_thresh]
    if not len(instances):
        return np.asarray(canvas).copy()
    if "scores" in instances:
        instances = instances[instances.scores.argsort(descending=True)]
    num = len(instances)
    classes = instances.classes.tolist() if "classes" in instances else [0] * num
    by_class = color_by == "class" or (color_by == "auto" and len(class_names) != 1)
    table = palette(max([num, *(c + 1 for c in classes)]))
    colors = table[classes] if by_class else table[:num]

    side = math.sqrt(canvas.width * canvas.height)
    line = max(1, round(side / 350))
    if "masks" in instances:
        canvas = _paint_masks(canvas, instances.masks, colors, line)
    scale = np.array([canvas.width / instances.image_size[1], canvas.height / instances.image_size[0]] * 2)
    boxes = instances.boxes.tensor.cpu().numpy() * scale
    pen = ImageDraw.Draw(canvas)
    thin = max(1, line - 1) if "masks" in instances else line
    for box, color in zip(boxes[::-1], colors[::-1]):
        _rectangle(pen, box, tuple(color.tolist()), thin)
    texts = _texts(instances, classes, class_names)
    _write_labels(pen, canvas.size, boxes, texts, colors, _font_size(side, num))
    return np.asarray(canvas)


def _canvas(image: ImageLike, min_side: int) -> Image.Image:
    canvas = Image.fromarray(to_array(image))
    scale = min_side / max(canvas.size)
    if scale > 1:
        canvas = canvas.resize((round(canvas.width * scale), round(canvas.height * scale)), Image.Resampling.BICUBIC)
    return canvas


def _paint_masks(canvas: Image.Image, masks: Any, colors: np.ndarray, line: int) -> Image.Image:
    """Fills and outlines the masks, the largest first, so that small ones lie on top."""
    pixels = np.asarray(canvas).astype(np.float32)
    bitmaps = masks.bitmaps().tensor.cpu().numpy()
    sizes = bitmaps.reshape(len(bitmaps), -1).sum(1)
    for i in np.argsort(-sizes, kind="stable").tolist():
        shape = _enlarged(bitmaps[i], canvas.size)
        bounds = shape.getbbox()
        if bounds is None:
            continue
        x1, y1, x2, y2 = bounds
        grown = (max(x1 - line, 0), max(y1 - line, 0), min(x2 + line, canvas.width), min(y2 + line, canvas.height))
        part = shape.crop(grown)
        inside = np.asarray(part) > 0
        edge = inside & (np.asarray(part.filter(ImageFilter.MinFilter(2 * line + 1))) == 0)
        view = pixels[grown[1] : grown[3], grown[0] : grown[2]]
        color = colors[i].astype(np.float32)
        view[inside] = (1 - _FILL) * view[inside] + _FILL * color
        view[edge] = 0.15 * view[edge] + 0.85 * color
    return Image.fromarray(pixels.round().astype(np.uint8))


def _enlarged(bitmap: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The mask (0 or 255) in a picture of ``(width, height)``, its steps rounded off."""
    shape = Image.fromarray(bitmap.astype(np.uint8) * 255)
    scale = size[0] / shape.width
    if shape.size != size:
        shape = shape.resize(size, Image.Resampling.BILINEAR)
        if scale > 2:
            shape = shape.filter(ImageFilter.GaussianBlur(0.5 * scale))
        shape = shape.point([0] * 128 + [255] * 128)
    return shape


def _rectangle(pen: ImageDraw.ImageDraw, box: np.ndarray, color: tuple[int, ...], width: int) -> None:
    x1, y1, x2, y2 = (round(v) for v in box.tolist())
    pen.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=color, width=width)


def _texts(instances: Instances, classes: list[int], class_names: Sequence[str]) -> list[str]:
    """Class and score; the name is left out where there is only one class."""
    names = [class_names[c] if 0 <= c < len(class_names) else str(c) for c in classes]
    if "scores" not in instances:
        return names if "classes" in instances and len(class_names) != 1 else [""] * len(classes)
    scores = [f"{score:.2f}" for score in instances.scores.tolist()]
    return scores if len(class_names) == 1 else [f"{name} {score}" for name, score in zip(names, scores)]


def _font_size(side: float, num: int) -> int:
    """In proportion to the picture, and smaller where there is a crowd."""
    size = side / 42 * (1.0 if num <= 15 else 0.85 if num <= 40 else 0.7)
    return max(10, min(round(size), 48))


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """A sans-serif with a wide choice of scripts (DejaVu, which comes with matplotlib)."""
    import matplotlib

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _write_labels(
    pen: ImageDraw.ImageDraw,
    canvas_size: tuple[int, int],
    boxes: np.ndarray,
    texts: list[str],
    colors: np.ndarray,
    size: int,
) -> None:
    """Labels at the boxes' corners, the best first; each goes to the first place that is free."""
    font = load_font(size)
    placed: list[tuple[float, float, float, float]] = []
    for box, text, color in zip(boxes, texts, colors):
        if not text:
            continue
        width, height = font.getlength(text) + size * 0.5, size * 1.3
        spot = _free_spot(box, width, height, canvas_size, placed)
        if spot is None:
            continue
        placed.append(spot)
        pen.rectangle(spot, fill=tuple(color.tolist()))
        middle = (spot[0] + size * 0.25, (spot[1] + spot[3]) / 2)
        pen.text(middle, text, fill=text_color(color), font=font, anchor="lm")


def _free_spot(
    box: np.ndarray,
    width: float,
    height: float,
    canvas_size: tuple[int, int],
    placed: list[tuple[float, float, float, float]],
) -> tuple[float, float, float, float] | None:
    """Above the box, inside its top, below it, at its right corner: the first that is free and in the picture."""
    x1, y1, x2, y2 = box.tolist()
    corners = [(x1, y1 - height), (x1, y1), (x1, y2), (x2 - width, y1 - height), (x2 - width, y2 - height)]
    for x, y in corners:
        x = min(max(x, 0), canvas_size[0] - width)
        if y < 0 or y + height > canvas_size[1]:
            continue
        spot = (x, y, x + width, y + height)
        if not any(spot[0] < p[2] and p[0] < spot[2] and spot[1] < p[3] and p[1] < spot[3] for p in placed):
            return spot
    return None
