"""Labels at boxes, none on another one."""

import numpy as np
from PIL import ImageDraw, ImageFont

from detkit.visualization.colors import text_color

Place = tuple[int, int, int, int]
"""Where a label stands: x1, y1, x2, y2, half-open, in whole pixels."""


def font_size(side: float, num: int) -> int:
    """The size for ``num`` labels on an image of area ``side`` squared: smaller where there are many."""
    size = side / 42 * (1.0 if num <= 15 else 0.85 if num <= 40 else 0.7)
    return max(10, min(round(size), 48))


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def load_font(size: int) -> Font:
    """A sans-serif with a wide choice of scripts (DejaVu, which comes with matplotlib), or else Pillow's own."""
    import matplotlib

    try:
        return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def write_labels(
    pen: ImageDraw.ImageDraw,
    image_size: tuple[int, int],
    boxes: np.ndarray,
    texts: list[str],
    colors: np.ndarray,
    size: int,
) -> None:
    """Labels at the boxes' corners, the best first; each goes to the first place that is free."""
    font = load_font(size)
    taken: list[Place] = []
    for box, text, color in zip(boxes, texts, colors):
        if not text:
            continue
        width, height = round(font.getlength(text) + size * 0.5), round(size * 1.3)
        place = free_place(box, width, height, image_size, taken)
        if place is None:
            continue
        taken.append(place)
        pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=tuple(color.tolist()))
        middle = (place[0] + size * 0.25, (place[1] + place[3]) / 2)
        pen.text(middle, text, fill=text_color(color), font=font, anchor="lm")


def free_place(
    box: np.ndarray, width: int, height: int, image_size: tuple[int, int], taken: list[Place]
) -> Place | None:
    """Above the box, inside its top, below it, at its right corner: the first that is free and in the image."""
    x1, y1, x2, y2 = (round(v) for v in box.tolist())
    corners = [(x1, y1 - height), (x1, y1), (x1, y2), (x2 - width, y1 - height), (x2 - width, y2 - height)]
    for x, y in corners:
        x = min(max(x, 0), image_size[0] - width)
        if y < 0 or y + height > image_size[1]:
            continue
        place = (x, y, x + width, y + height)
        if not any(place[0] < p[2] and p[0] < place[2] and place[1] < p[3] and p[1] < place[3] for p in taken):
            return place
    return None
