"""Pixels of any number of bits as RGB of 8."""

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torchvision.io

from detkit.data.image_files import load, png_facts
from detkit.data.issues import Issue, Report

DARK = 16
"""Of 256. An image that is darker in all but a thousandth of its values is nearly black."""
DARK_IMAGE = "nearly black image"
BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE_VALUE, SAMPLE_FORMAT, S_MAX_SAMPLE_VALUE = 258, 262, 281, 339, 341
"""Tags of TIFF."""
UNSIGNED, SIGNED = 1, 2
"""Values of ``SAMPLE_FORMAT``."""
WHITE_IS_ZERO = 0
"""A value of ``PHOTOMETRIC``."""


def to_rgb(image: Any, path: str, max_value: float | None, report: Report) -> np.ndarray:
    """The pixels of the present frame of an image of Pillow's as ``(H, W, 3)`` uint8 RGB.

    Args:
        image: the image.
        path: its file.
        max_value: as in ``ImageReading``.
        report: takes a wrong checksum, and bits that are not used.

    Raises:
        DataError: the range of the pixels is not known (an ``Issue``).
    """
    declared = 65535.0 if image.mode == "I" else 0.0  # Pillow scales what is neither PNG nor TIFF to 16 bits
    bits, deep, tags = 8, None, image.tag_v2 if image.format == "TIFF" else {}
    if image.format == "PNG":
        sound, bits, used = png_facts(path)
        if not sound:
            fix = "replace the file if the image looks wrong"
            report(Issue("wrong checksum", path, "", "has a wrong checksum, so it was changed", fix, "warning"))
        declared = 2.0**used - 1 if used < bits else 0.0
        deep = _deep_colours(path) if bits == 16 and image.tell() == 0 and image.mode in ("RGB", "RGBA", "LA") else None
    elif tags:
        bits, declared = max(tags.get(BITS_PER_SAMPLE, (1,))), _declared(image)
    load(image)
    deep = _deep_values(image, bits, tags) if deep is None else deep
    if deep is not None:
        pixels = scaled(deep, path, max_value, declared, report)
        return 255 - pixels if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else pixels  # Pillow inverts only 8 bits
    if bits > 8 and max_value is not None:
        what = "has more than 8 bits in each of several channels, of which only the upper 8 can be read"
        raise Issue("unreadable image", path, "", what, "save it with 8 bits, or leave reading.max_value out")
    pixels = to_eight_bits(image)
    if bits > 8 and is_dark(pixels):
        fix = "save it with 8 bits, the largest value at 255"
        report(Issue(DARK_IMAGE, path, "", "is nearly black in the upper 8 of its bits", fix, "warning"))
    return pixels


def to_eight_bits(image: Any) -> np.ndarray:
    """The pixels of an image of Pillow's of at most 8 bits as ``(H, W, 3)`` RGB."""
    if image.mode == "La":  # which Pillow converts to nothing else
        image = image.convert("LA")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _deep_values(image: Any, bits: int, tags: Mapping[int, Any]) -> np.ndarray | None:
    """The one channel of a loaded image that is not of 8 bits without a sign; None for any other."""
    sample_format = tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0]
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)[:, :, None]
        unsigned = tags and image.mode == "I" and bits == 32 and sample_format == UNSIGNED
        return values.view(np.uint32) if unsigned else values
    if image.mode == "L" and bits == 8 and sample_format == SIGNED:
        return np.asarray(image)[:, :, None].view(np.int8)
    return None


def _deep_colours(path: str) -> np.ndarray | None:
    """The colours of a PNG of 16 bits, of which Pillow gives the upper 8; None where torchvision has no decoder."""
    if not hasattr(torchvision.io, "decode_png"):
        return None
    with contextlib.suppress(RuntimeError):
        deep = torchvision.io.decode_png(torch.from_numpy(np.fromfile(path, np.uint8))).permute(1, 2, 0).numpy()
        return deep[:, :, :3] if deep.shape[2] > 2 else deep[:, :, :1]
    return None


def _declared(image: Any) -> float:
    """The largest value that a TIFF says its pixels can have; 0 if it says nothing that helps."""
    bits = max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))
    value = image.tag_v2.get(S_MAX_SAMPLE_VALUE, image.tag_v2.get(MAX_SAMPLE_VALUE, 0))
    value = max(value) if isinstance(value, tuple) else value
    if image.mode == "F":
        return float(value) if 0 < value < math.inf else 0.0
    if image.tag_v2.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == SIGNED and bits <= 16:
        return 2.0 ** (bits - 1) - 1
    if 8 < bits < 16:
        return 2.0**bits - 1
    return 2.0 ** max(8, int(value).bit_length()) - 1 if 0 < value < 2**bits - 1 else 0.0


def scaled(values: np.ndarray, path: str, max_value: float | None, declared: float, report: Report) -> np.ndarray:
    """``(H, W, 1 or more)`` numbers of more than 8 bits, as 8; one channel is repeated as RGB.

    What a file declares counts if no value is above it: a PNG's bits are declared of values before they were scaled.
    """
    top = float(np.nanmax(values, initial=0))
    white = max_value or (declared if top <= declared else 0)
    wide = values.dtype.itemsize > 2
    if not white and wide and (values.dtype.kind == "f" or top > 65535):
        kind = "floating-point numbers" if values.dtype.kind == "f" else f"whole numbers up to {top:.0f}"
        fix = "give the value of white (a dataset's reading.max_value, a Predictor's max_value), or save 8 or 16 bits"
        raise Issue("unreadable image", path, "", f"pixels are {kind} of unknown range", fix)
    if not white:
        white = 255.0 if wide and top <= 255 else 65535.0
    if values.dtype.kind != "u" and (below := np.count_nonzero(values < 0)) * 1000 > values.size:
        what = f"has {below} of {values.size} values below 0, which become black"
        report(Issue("values below 0", path, "", what, "save it with 8 bits, black at 0", "warning"))
    pixels: np.ndarray = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), 256):  # rows at a time, to save memory
        part = values[start : start + 256].astype(np.float32)
        if values.dtype.kind == "f":
            part = np.nan_to_num(part, copy=False, nan=0.0) * (255 / white) + 0.5
        else:
            part *= 256 / (white + 1)
        pixels[start : start + 256] = np.clip(part, 0, 255, out=part)
    if not max_value and top > declared and 0 < 4 * top <= white:
        what = f"has values up to {top:g}, and is scaled as if {white:g} were white"
        fix = "if they have fewer bits, give the largest as the dataset's reading.max_value (4095 for 12 bits)"
        report(Issue("unused bits", path, "", what, fix, "warning"))
    return np.repeat(pixels, 3, 2) if pixels.shape[-1] == 1 else pixels


def is_dark(pixels: np.ndarray) -> bool:
    """Whether a uint8 image is nearly black."""
    return bool(np.count_nonzero(pixels >= DARK) * 1000 < pixels.size)
