"""Pictures side by side on one sheet, under titles and a legend."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from detkit.visualization.fonts import draw_text, shortened, text_width, writable


def side_by_side(
    pictures: Sequence[np.ndarray], titles: Sequence[str], legend: Sequence[tuple[str, np.ndarray]] = ()
) -> np.ndarray:
    """Pictures in a row, each under its title; a title that is wider than its picture runs over several lines.

    Args:
        pictures: ``(H_i, W_i, 3)`` uint8 each.
        titles: as many.
        legend: texts with the RGB colours that they explain; in a line of their own at the top.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    if not pictures or len(pictures) != len(titles):
        raise ValueError(f"side_by_side: expected as many titles as pictures, got {len(titles)} and {len(pictures)}")
    height = max(p.shape[0] for p in pictures)
    gap = max(4, height // 80)
    size = max(12, min(height // 32, 40))
    margin, titles = round(size * 0.4), [writable(title) for title in titles]
    blocks = [_lines(title, size, p.shape[1] - 2 * margin) for p, title in zip(pictures, titles)]
    width = sum(p.shape[1] for p in pictures) + gap * (len(pictures) - 1)
    width = max([width, *(math.ceil(text_width(writable(text), size) + 2 * size) for text, _ in legend)])
    places, top = _legend_places([text for text, _ in legend], size, width)
    header = round(top + size * (0.6 + 1.3 * max(map(len, blocks))))
    sheet = Image.new("RGB", (width, header + height), (255, 255, 255))
    pen, x = ImageDraw.Draw(sheet), 0
    for (text, color), (left, upper) in zip(legend, places):
        pen.rectangle((left, upper, left + size, upper + size), fill=tuple(map(int, color)), outline=(90, 90, 90))
        draw_text(pen, (left + 1.4 * size, upper + size / 2), writable(text), size, (30, 30, 30))
    for picture, lines in zip(pictures, blocks):
        for number, line in enumerate(lines):
            draw_text(pen, (x + margin, top + size * (0.95 + 1.3 * number)), line, size, (30, 30, 30))
        sheet.paste(Image.fromarray(picture), (x, header))
        x += picture.shape[1] + gap
    return np.asarray(sheet)


def _lines(title: str, size: int, width: int) -> list[str]:
    """The title in lines of at most ``width`` pixels; a word that is wider loses its end."""
    lines = [""]
    for word in title.split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, size) <= width:
            lines[-1] = longer
            continue
        lines.append(shortened(word, size, width))
    return [line for line in lines if line] or [""]


def _legend_places(texts: Sequence[str], size: int, width: int) -> tuple[list[tuple[float, float]], float]:
    """Where the entries of a legend stand, in as many lines as they need, and where the last one ends."""
    places, x, y = list[tuple[float, float]](), 0.4 * size, 0.4 * size
    for text in texts:
        entry = text_width(writable(text), size) + 1.4 * size
        if places and x + entry > width:
            x, y = 0.4 * size, y + 1.4 * size
        places.append((x, y))
        x += entry + 1.2 * size
    return places, y + 1.1 * size if texts else 0.0
