"""Labels at boxes, none on another one."""

import numpy as np
from PIL import ImageDraw, ImageFont

from detkit.visualization.colors import text_color

Spot = tuple[int, int, int, int]
"""Where a label stands: x1, y1, x2, y2, half-open, in whole pixels."""


def font_size(side: float, num: int) -> int:
    """In proportion to the picture, and smaller where there is a crowd.

    Args:
        side: root of the picture's area.
        num: how many labels there are.
    """
    size = side / 42 * (1.0 if num <= 15 else 0.85 if num <= 40 else 0.7)
    return max(10, min(round(size), 48))


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """A sans-serif with a wide choice of scripts (DejaVu, which comes with matplotlib)."""
    import matplotlib

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def write_labels(
    pen: ImageDraw.ImageDraw,
    canvas_size: tuple[int, int],
    boxes: np.ndarray,
    texts: list[str],
    colors: np.ndarray,
    size: int,
) -> None:
    """Labels at the boxes' corners, the best first; each goes to the first place that is free."""
    font = load_font(size)
    placed: list[Spot] = []
    for box, text, color in zip(boxes, texts, colors):
        if not text:
            continue
        width, height = round(font.getlength(text) + size * 0.5), round(size * 1.3)
        spot = free_spot(box, width, height, canvas_size, placed)
        if spot is None:
            continue
        placed.append(spot)
        pen.rectangle((spot[0], spot[1], spot[2] - 1, spot[3] - 1), fill=tuple(color.tolist()))
        middle = (spot[0] + size * 0.25, (spot[1] + spot[3]) / 2)
        pen.text(middle, text, fill=text_color(color), font=font, anchor="lm")


def free_spot(
    box: np.ndarray,
    width: int,
    height: int,
    canvas_size: tuple[int, int],
    placed: list[Spot],
) -> Spot | None:
    """Above the box, inside its top, below it, at its right corner: the first that is free and in the picture."""
    x1, y1, x2, y2 = (round(v) for v in box.tolist())
    corners = [(x1, y1 - height), (x1, y1), (x1, y2), (x2 - width, y1 - height), (x2 - width, y2 - height)]
    for x, y in corners:
        x = min(max(x, 0), canvas_size[0] - width)
        if y < 0 or y + height > canvas_size[1]:
            continue
        spot = (x, y, x + width, y + height)
        if not any(spot[0] < p[2] and p[0] < spot[2] and spot[1] < p[3] and p[1] < spot[3] for p in placed):
            return spot
    return None
