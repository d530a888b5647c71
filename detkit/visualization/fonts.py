"""Fonts for texts in any script: the first that has all their characters, DejaVu or one of the system."""

import functools
import importlib
import logging
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

from PIL import ImageDraw, ImageFont

logger = logging.getLogger(__name__)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_HINTS = ("regular", "sans", "noto")
"""In the names of fonts that are tried before others."""
_warned: set[str] = set()


def load_matplotlib() -> Any:
    """The module matplotlib; also where ``MPLBACKEND`` names a backend that is not installed, as nothing here uses one.

    Programs that a notebook starts inherit its backend, often in an environment that has not got it.
    """
    backend = os.environ.get("MPLBACKEND")
    try:
        return importlib.import_module("matplotlib")
    except ValueError:
        if backend is None:
            raise
        del os.environ["MPLBACKEND"]
        for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:  # imported before the error
            del sys.modules[name]
        try:
            return importlib.import_module("matplotlib")
        finally:
            os.environ["MPLBACKEND"] = backend


@functools.lru_cache(100)
def load_font(size: int, file: str | None = None) -> Font:
    """A font of a file; by default DejaVu, which comes with matplotlib, or where that is not there, Pillow's own."""
    try:
        return ImageFont.truetype(file or _dejavu(), size)
    except OSError:
        return ImageFont.load_default(size)


def class_label(index: int, class_names: Sequence[str]) -> str:
    """The name of a class; its number where it has none, or one that no font can write, which is logged once."""
    if not 0 <= index < len(class_names):
        return str(index)
    if None not in dict(font_runs(class_names[index])):
        return class_names[index]
    _warn_once(class_names[index], "class numbers are drawn")
    return str(index)


def writable(text: str) -> str:
    """The text; where no font can write it, which is logged once, with escapes such as ``\\u6c14`` in it."""
    if None not in dict(font_runs(text)):
        return text
    _warn_once(text, "its characters are written as escapes")
    return text.encode("ascii", "backslashreplace").decode()


def text_width(text: str, size: int) -> float:
    """How many pixels wide ``draw_text`` writes."""
    return sum(load_font(size, file).getlength(part) for file, part in font_runs(text))


def shortened(text: str, size: int, width: float) -> str:
    """The text, or as much of its beginning as is at most ``width`` pixels wide, with an ellipsis."""
    while len(text) > 1 and text_width(text, size) > width:
        text = text.rstrip("…")[:-1] + "…"
    return text


def draw_text(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, fill: Any) -> None:
    """Writes a text that begins at ``place``, its middle left point."""
    x, y = place
    for file, part in font_runs(text):
        font = load_font(size, file)
        pen.text((x, y), part, fill=fill, font=font, anchor="lm")
        x += font.getlength(part)


@functools.lru_cache(10_000)
def font_runs(text: str) -> tuple[tuple[str | None, str], ...]:
    """The text in parts, each with the file of the first font that has its characters; None: no font has.

    White space and marks without a form of their own go with what stands before them."""
    parts: list[tuple[bool, str]] = []
    for character in re.sub(r"\s", " ", text):  # layouts of one line refuse a line break
        plain = _has(_dejavu(), frozenset(character))
        if parts and (plain == parts[-1][0] or _is_formless(character) or unicodedata.combining(character)):
            parts[-1] = (parts[-1][0], parts[-1][1] + character)
        else:
            parts.append((plain or _is_formless(character), character))
    return tuple((_dejavu() if plain else _font_of(_with_form(part)), part) for plain, part in parts)


def _is_formless(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) == "Cf" or character == "\ufe0f"


def _with_form(text: str) -> frozenset[str]:
    return frozenset(c for c in text if not _is_formless(c))


@functools.lru_cache(1000)
def _font_of(characters: frozenset[str]) -> str | None:
    return next((path for path in _system_fonts() if _has(path, characters)), None)


@functools.cache
def _dejavu() -> str:
    return f"{load_matplotlib().get_data_path()}/fonts/ttf/DejaVuSans.ttf"


@functools.cache
def _system_fonts() -> list[str]:
    load_matplotlib()
    from matplotlib.font_manager import findSystemFonts

    def plainness(path: str) -> tuple[int, str]:
        name = os.path.basename(path).lower()
        return -sum(hint in name for hint in _HINTS), path

    return sorted(findSystemFonts(), key=plainness)


@functools.lru_cache(10_000)
def _has(path: str, characters: frozenset[str]) -> bool:
    """Whether a font has an outline for each character; it has none in fonts of coloured bitmaps."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        if not font.scalable or not all(font.get_char_index(ord(c)) for c in characters):
            return False
        return all(font.load_char(ord(c)).height > 0 for c in characters)
    except (RuntimeError, OSError, ValueError):  # a damaged font, or one of a kind that is not known
        return False


def _warn_once(text: str, instead: str) -> None:
    if instead in _warned:
        return
    _warned.add(instead)
    fix = "Install one that does, such as Noto (Debian: apt install fonts-noto fonts-noto-cjk)"
    logger.warning("no font of this system can write %r; %s instead. %s", text, instead, fix)
