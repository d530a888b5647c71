"""Instances drawn on images: masks, boxes and labels, for ground truth and for predictions."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from detkit.structures import Instances, Prediction
from detkit.visualization.colors import palette
from detkit.visualization.inputs import ImageLike, to_array
from detkit.visualization.labels import font_size, write_labels

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
    canvas = enlarged(image, min_side)
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

    side, line = math.sqrt(canvas.width * canvas.height), line_width(canvas)
    if "masks" in instances:
        canvas = _paint_masks(canvas, instances.masks, colors, line)
    scale = np.array([canvas.width / instances.image_size[1], canvas.height / instances.image_size[0]] * 2)
    boxes = instances.boxes.tensor.cpu().numpy() * scale
    pen = ImageDraw.Draw(canvas)
    thin = max(1, line - 1) if "masks" in instances else line
    for box, color in zip(boxes[::-1], colors[::-1]):
        rectangle(pen, box, tuple(color.tolist()), thin)
    texts = _texts(instances, classes, class_names)
    write_labels(pen, canvas.size, boxes, texts, colors, font_size(side, num))
    return np.asarray(canvas)


def draw_prediction(
    image: ImageLike,
    prediction: Prediction,
    class_names: Sequence[str] = (),
    *,
    score_thresh: float = 0.0,
    color_by: ColorBy = "auto",
    min_side: int = MIN_SIDE,
) -> np.ndarray:
    """A picture of an image with what a model said of it; otherwise as ``draw_instances``."""
    if prediction.instances is None:
        return np.asarray(enlarged(image, min_side)).copy()
    options: dict[str, Any] = {"score_thresh": score_thresh, "color_by": color_by, "min_side": min_side}
    return draw_instances(image, prediction.instances, class_names, **options)


def enlarged(image: ImageLike, min_side: int = MIN_SIDE) -> Image.Image:
    """The image as a picture whose longer side has at least ``min_side`` pixels."""
    if (
        isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] not in (1, 3, 4)
    ):  # of other channels, the first
        image = image[:3] if image.shape[0] > 4 else image[:1]
    canvas = Image.fromarray(to_array(image))
    scale = min_side / max(canvas.size)
    if scale > 1:
        canvas = canvas.resize((round(canvas.width * scale), round(canvas.height * scale)), Image.Resampling.BICUBIC)
    return canvas


def line_width(canvas: Image.Image) -> int:
    """How many pixels wide a line is, in proportion to the picture."""
    return max(1, round(math.sqrt(canvas.width * canvas.height) / 350))


def _paint_masks(canvas: Image.Image, masks: Any, colors: np.ndarray, line: int) -> Image.Image:
    """Fills and outlines the masks, the largest first, so that small ones lie on top."""
    pixels = np.asarray(canvas).astype(np.float32)
    bitmaps = masks.bitmaps().tensor.cpu().numpy()
    sizes = bitmaps.reshape(len(bitmaps), -1).sum(1)
    for i in np.argsort(-sizes, kind="stable").tolist():
        shape = _enlarged_mask(bitmaps[i], canvas.size)
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


def _enlarged_mask(bitmap: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The mask (0 or 255) in a picture of ``(width, height)``, its steps rounded off."""
    shape = Image.fromarray(bitmap.astype(np.uint8) * 255)
    scale = size[0] / shape.width
    if shape.size != size:
        shape = shape.resize(size, Image.Resampling.BILINEAR)
        if scale > 2:
            shape = shape.filter(ImageFilter.GaussianBlur(0.5 * scale))
        shape = shape.point([0] * 128 + [255] * 128)
    return shape


def rectangle(pen: ImageDraw.ImageDraw, box: np.ndarray, color: tuple[int, ...], width: int) -> None:
    """The outline of a box ``(4,)`` xyxy, inside its half-open bounds."""
    x1, y1, x2, y2 = (round(v) for v in box.tolist())
    pen.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=color, width=width)


def _texts(instances: Instances, classes: list[int], class_names: Sequence[str]) -> list[str]:
    """Class and score; the name is left out where there is only one class."""
    names = [class_names[c] if 0 <= c < len(class_names) else str(c) for c in classes]
    if "scores" not in instances:
        return names if "classes" in instances and len(class_names) != 1 else [""] * len(classes)
    scores = [f"{score:.2f}" for score in instances.scores.tolist()]
    return scores if len(class_names) == 1 else [f"{name} {score}" for name, score in zip(names, scores)]
