"""Image files to RGB arrays, and what their headers say."""

import contextlib
import dataclasses
import math
import os
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
import torchvision.io
from PIL import Image

from detkit.config import Positive
from detkit.data.image_files import log_once, naming_warnings, num_frames, open_image, png_facts
from detkit.data.issues import Issue, Report
from detkit.registry import DataError

ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""

DARK = 16
"""Of 256. An image that is darker in all but a thousandth of its values is nearly black."""

DARK_IMAGE = "nearly black image"
TURNED_IN_DOUBT = "turned by its EXIF tag, and its size does not say whether the annotations are"
TURNED_FIX = (
    "look at one with tools/visualize_data.py; if annotations lie on the stored pixels, set the dataset's"
    " reading.orientation to stored"
)

# Its decoder may leave torchvision one day; Pillow then does the work, as it does for all but common JPEG.
warnings.filterwarnings("ignore", "The image decoding and encoding capabilities", DeprecationWarning)

_UPRIGHT = {2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 1), 6: (0, 3), 7: (1, 3), 8: (0, 1)}
"""Orientation -> whether it is mirrored left to right, and quarter turns counter-clockwise after that."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageReading:
    """How image files are read.

    Args:
        max_value: of files of more than 8 bits a sample the value that becomes 255: 4095 for 12 bits, say, 1.0 for
            floating-point numbers from 0 to 1. null: what the file declares, else the largest of 16 bits.
        orientation: auto: as the EXIF tag says, if the image then has the size of its record (or has no record);
            stored: as the pixels lie in the file, for annotations that were drawn on those.
        outside_root: whether a file name may be an absolute path or lead out of the dataset's folder of images.
    """

    max_value: Positive | None = None
    orientation: Literal["auto", "stored"] = "auto"
    outside_root: bool = False


def read_image(
    path: str,
    size: tuple[int, int] | None = None,
    reading: ImageReading = ImageReading(),  # it is frozen
    report: Report = log_once,
) -> np.ndarray:
    """An image file as ``(H, W, 3)`` uint8 RGB; of a file with several frames the first.

    Grayscale and palettes become RGB, an alpha channel is dropped, more than 8 bits are scaled to 8. A camera's EXIF
    orientation is applied if the image then has ``size``: tools that show images turned write turned sizes and boxes,
    those that do not write both as they are stored. Common JPEG is decoded by torchvision, all else by Pillow; both
    stand on libjpeg-turbo and give the same pixels.

    Args:
        path: the file.
        size: ``(height, width)`` that its annotations are made for; None for an image without annotations, which is
            turned as it is meant to be seen.
        reading: how.
        report: takes what is odd though the image can be read: warnings of the decoder, wrong checksums, further
            frames, 16 bits of which few are used. The default logs it once.

    Raises:
        DataError: the file is missing, is not an image that can be decoded, has another size or too many pixels (each
            an ``Issue`` with its kind).
    """
    with naming_warnings(path, report):
        return decode_image(path, size, reading, report)


def decode_image(path: str, size: tuple[int, int] | None, reading: ImageReading, report: Report) -> np.ndarray:
    """``read_image``, but decoders say their warnings as they do by themselves, so threads need not wait."""
    with _translating(path), open_image(path) as image:
        tag, stored, found = orientation(image), *sizes(image)
        turn = _is_turned(tag, found, size, reading)
        if size is not None and (found if turn else stored) != tuple(size):
            raise _wrong_size(path, stored, size)
        many, format = getattr(image, "is_animated", False), image.format
        pixels = _common_jpeg(image, path)
        pixels = _rgb(image, path, reading.max_value, report) if pixels is None else pixels
        if turn != (format == "TIFF" and tag != 1):  # Pillow has turned a TIFF already
            mirrored, turns = _UPRIGHT[tag]
            turns = turns if turn or mirrored else -turns
            pixels = np.rot90(pixels[:, ::-1] if mirrored else pixels, turns)
        if many and (frames := num_frames(path)) > 1:
            fix = "name the file itself to tools/predict.py to have all, or save the frames as images"
            report(Issue("several frames", path, "", f"has {frames} frames; only the first is read", fix, "warning"))
    return np.ascontiguousarray(pixels)


def check_image(
    path: str,
    size: tuple[int, int],
    reading: ImageReading = ImageReading(),
    report: Report = log_once,
) -> None:
    """Checks a file without decoding it: its header, its size, and whether its end is there.

    A JPEG or PNG without its end mark is decoded, because some programs write bytes behind it.

    Args:
        path: the file.
        size: ``(height, width)`` that it must have, possibly after its EXIF orientation.
        reading, report: as for ``read_image``; reports an orientation whose size does not say whether it is meant.

    Raises:
        DataError: as ``read_image`` would.
    """
    with naming_warnings(path, report), _translating(path):
        with open_image(path) as image:
            kind, stored, seen, tag = image.format, (image.height, image.width), (image.height, image.width), 1
            if kind != "PNG" or "exif" in image.info:  # Pillow would decode a PNG to look for the tag
                tag, (stored, seen) = orientation(image), sizes(image)
        if tuple(size) not in (stored, stored[::-1]):
            raise _wrong_size(path, stored, size)
        decode = not _ends_well(path, kind) or stored != tuple(size)
    if tag != 1 and reading.orientation == "auto" and seen == stored:
        report(Issue(TURNED_IN_DOUBT, path, "", "is turned by its EXIF tag", TURNED_FIX, "warning"))
    if decode:
        read_image(path, size, reading, report)


def orientation(image: Image.Image) -> int:
    """How the picture lies in its file, by its EXIF tag: 1 as it is meant to be seen, 2 to 8 otherwise."""
    tag = image.getexif().get(ORIENTATION, 1)
    return tag if tag in _UPRIGHT else 1


def sizes(image: Image.Image) -> tuple[tuple[int, int], tuple[int, int]]:
    """``(height, width)`` of an image that is not loaded, as it is stored and as it is meant to be seen."""
    lies, found = orientation(image) >= 5, (image.height, image.width)
    if image.format == "TIFF":  # Pillow gives the size after turning
        return (found[::-1] if lies else found), found
    return found, (found[::-1] if lies else found)


def is_dark(pixels: np.ndarray) -> bool:
    """Whether a uint8 image is nearly black."""
    return bool(np.count_nonzero(pixels >= DARK) * 1000 < pixels.size)


@contextlib.contextmanager
def _translating(path: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        raise _unreadable(path, error) from None


def _is_turned(tag: int, seen: tuple[int, int], size: tuple[int, int] | None, reading: ImageReading) -> bool:
    return tag != 1 and reading.orientation == "auto" and (size is None or seen == tuple(size))


def _common_jpeg(image: Image.Image, path: str) -> np.ndarray | None:
    """The pixels of a whole JPEG in RGB or gray; None where it is not one, for Pillow to decode or to refuse."""
    if image.format != "JPEG" or image.mode not in ("RGB", "L") or not hasattr(torchvision.io, "decode_jpeg"):
        return None
    try:
        text = torch.from_numpy(np.fromfile(path, np.uint8))
        pixels = torchvision.io.decode_jpeg(text, torchvision.io.ImageReadMode.RGB)
    except RuntimeError:
        return None
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def _rgb(image: Any, path: str, max_value: float | None, report: Report) -> np.ndarray:
    declared = 65535.0 if image.mode == "I" else 0.0  # Pillow scales what is neither PNG nor TIFF to 16 bits
    bits, deep = 8, None
    if image.format == "PNG":
        sound, bits, used = png_facts(path)
        if not sound:
            fix = "replace the file if the image looks wrong"
            report(Issue("wrong checksum", path, "", "has a wrong checksum, so it was changed", fix, "warning"))
        declared = 2.0**used - 1 if used < bits else 0.0
        deep = _deep_colours(path) if bits == 16 and image.mode in ("RGB", "RGBA", "LA") else None
    elif image.format == "TIFF":
        bits, declared = max(image.tag_v2.get(258, (1,))), _declared(image)
    image.load()
    if deep is None and (image.mode == "F" or image.mode.startswith("I")):
        deep = np.asarray(image)[:, :, None]
        if image.format == "TIFF" and bits == 32 and image.mode == "I" and image.tag_v2.get(339, (1,))[0] == 1:
            deep = deep.view(np.uint32)
    if deep is not None:
        return _scaled(deep, path, max_value, declared, report)
    if bits > 8 and max_value is not None:
        what = "has more than 8 bits in each of several channels, of which only the upper 8 can be read"
        raise Issue("unreadable image", path, "", what, "save it with 8 bits, or leave reading.max_value out")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    if bits > 8 and is_dark(pixels):
        fix = "save it with 8 bits, the largest value at 255"
        report(Issue(DARK_IMAGE, path, "", "is nearly black in the upper 8 of its bits", fix, "warning"))
    return pixels


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
    bits = max(image.tag_v2.get(258, (1,)))
    value = image.tag_v2.get(341, image.tag_v2.get(281, 0))  # SMaxSampleValue, MaxSampleValue
    value = max(value) if isinstance(value, tuple) else value
    if image.mode == "F":
        return float(value) if 0 < value < math.inf else 0.0
    if 8 < bits < 16:
        return 2.0**bits - 1
    return 2.0 ** max(8, int(value).bit_length()) - 1 if 0 < value < 2**bits - 1 else 0.0


def _scaled(values: np.ndarray, path: str, max_value: float | None, declared: float, report: Report) -> np.ndarray:
    """``(H, W, 1 or 3)`` numbers of more than 8 bits, as RGB of 8.

    What a file declares counts if no value is above it: a PNG's bits are declared of values before they were scaled.
    """
    top = float(np.nanmax(values, initial=0))
    white = max_value or (declared if top <= declared else 0)
    wide = values.dtype.itemsize > 2
    if not white and wide and (values.dtype.kind == "f" or top > 65535):
        kind = "floating-point numbers" if values.dtype.kind == "f" else f"whole numbers up to {top:.0f}"
        fix = "give the value of white as the dataset's reading.max_value, or save it with 8 or 16 bits"
        raise Issue("unreadable image", path, "", f"pixels are {kind} of unknown range", fix)
    if not white:
        white = 255.0 if wide and top <= 255 else 65535.0
    scaled = values.astype(np.float32)
    if values.dtype.kind == "f":
        scaled = np.nan_to_num(scaled, copy=False, nan=0.0) * (255 / white) + 0.5
    else:
        scaled *= 256 / (white + 1)
    pixels = np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)
    if not max_value and top > declared and 0 < 4 * top <= white:
        what = f"has values up to {top:g}, and is scaled as if {white:g} were white"
        fix = "if they have fewer bits, give the largest as the dataset's reading.max_value (4095 for 12 bits)"
        report(Issue("unused bits", path, "", what, fix, "warning"))
    return np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels


def _ends_well(path: str, kind: str | None) -> bool:
    mark = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(kind or "")
    if mark is None:
        return True
    with open(path, "rb") as file:
        file.seek(-min(16, os.path.getsize(path)), os.SEEK_END)
        return mark in file.read()


def _unreadable(path: str, error: Any) -> Issue:
    if not os.path.exists(path):
        fix = "check the dataset's image_root and its file names"
        return Issue("missing image", path, "", "there is no such image file", fix)
    what = f"cannot be decoded as an image ({str(error) or type(error).__name__})"
    return Issue("unreadable image", path, "", what, "replace the file or remove its record")


def _wrong_size(path: str, found: tuple[int, int], size: tuple[int, int]) -> Issue:
    what = (
        f"is {found[1]} x {found[0]} pixels (width x height), its annotations are made for {size[1]} x {size[0]}, so "
        "that they would lie in the wrong place"
    )
    fix = "use the image that was annotated, or correct the record's width and height with its annotations"
    return Issue("image of another size", path, "", what, fix)
