"""Image files to RGB arrays, and what their headers say."""

import contextlib
import dataclasses
import itertools
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
import torchvision.io
from PIL import Image, UnidentifiedImageError

from detkit.config import Positive
from detkit.data.bit_depth import to_rgb
from detkit.data.image_files import is_preview, load, log_once, naming_warnings, num_frames, open_image
from detkit.data.issues import Issue, Report
from detkit.registry import DataError

logger = logging.getLogger(__name__)

ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""

UNREADABLE = ("missing image", "unreadable image", "image of another size", "image above the size limit")
"""The kinds of ``Issue`` for which an image is not read."""
TURNED_IN_DOUBT = "turned by its EXIF tag, and its size does not say whether the annotations are"
TURNED_FIX = (
    "look at one with detkit visualize data; if annotations lie on the stored pixels, set the dataset's"
    " reading.orientation to stored"
)

# Its decoder may leave torchvision one day; Pillow then does the work, as it does for all but common JPEG.
warnings.filterwarnings("ignore", "The image decoding and encoding capabilities", DeprecationWarning)

_TIFF = "it is a TIFF of pixels that are not read, such as numbers of 64 bits or many channels"
_AS_COMMON_TIFF = "save it with 8 or 16 bits a channel, gray or RGB"
_OTHER_FILES = (
    (b"II*\0", _TIFF, _AS_COMMON_TIFF),
    (b"MM\0*", _TIFF, _AS_COMMON_TIFF),
    (b"version https://git-lfs", "it is a pointer of Git LFS, not the file itself", "fetch the file (git lfs pull)"),
    (b"<", "it is HTML, XML or SVG", "download or export it again, as PNG or JPEG"),
)
_HEIF = (b"ftypheic", b"ftypheix", b"ftypmif1")
"""Bytes 4 to 12 of such a file."""

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


DEFAULT_READING = ImageReading()


def read_image(
    path: str,
    size: tuple[int, int] | None = None,
    reading: ImageReading = DEFAULT_READING,
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
        pixels = to_rgb(image, path, reading.max_value, report) if pixels is None else pixels
        pixels = _turned(pixels, tag, turn, format)
        if many and (frames := num_frames(path)) > 1:
            fix = "name the file itself to detkit predict to have all, or save the frames as images"
            report(Issue("several frames", path, "", f"has {frames} frames; only the first is read", fix, "warning"))
    return np.ascontiguousarray(pixels)


def image_frames(path: str, reading: ImageReading = DEFAULT_READING) -> Iterator[tuple[np.ndarray, float]]:
    """All frames of an image file as ``(H, W, 3)`` uint8 RGB, and how many seconds each is shown (0: it is not said).

    A page of a TIFF that is a preview is none. What cannot be decoded ends the file, with a warning.

    Raises:
        DataError: the file is missing, no image, or its first frame cannot be decoded.
    """
    with _translating(path), contextlib.ExitStack() as stack:
        with naming_warnings(path, log_once):
            image = stack.enter_context(open_image(path))
        for number in itertools.count():
            try:
                with naming_warnings(path, log_once):
                    image.seek(number)
                    if image.format == "TIFF" and is_preview(image):
                        continue
                    tag, format, turn = orientation(image), image.format, reading.orientation == "auto"
                    pixels = _turned(to_rgb(image, path, reading.max_value, log_once), tag, turn, format)
                seconds = float(image.info.get("duration", 0)) / 1000
            except EOFError:
                return
            except Exception as error:
                if number == 0:
                    raise
                logger.warning("%s: is damaged from frame %d on, which are left out (%s)", path, number, error)
                return
            yield np.ascontiguousarray(pixels), seconds


def check_image(
    path: str,
    size: tuple[int, int],
    reading: ImageReading = DEFAULT_READING,
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


def lies_as_read(path: str, size: tuple[int, int], reading: ImageReading = DEFAULT_READING) -> bool:
    """Whether viewers show an image as ``read_image`` gives it: not where its EXIF tag turns it and that leaves it."""
    with contextlib.suppress(DataError), _translating(path), open_image(path) as image:
        if image.format != "PNG" or "exif" in image.info:  # Pillow would decode a PNG to look for the tag
            tag, (stored, seen) = orientation(image), sizes(image)
            return tag == 1 or stored != tuple(size) or _is_turned(tag, seen, size, reading)
    return True


def orientation(image: Image.Image) -> int:
    """How the picture lies in its file, by its EXIF tag: 1 as it is meant to be seen, 2 to 8 otherwise."""
    if image.format == "PNG":  # which may have its tags behind the pixels
        load(image)
    tag = image.getexif().get(ORIENTATION, 1)
    return tag if tag in _UPRIGHT else 1


def sizes(image: Image.Image) -> tuple[tuple[int, int], tuple[int, int]]:
    """``(height, width)`` of an image that is not loaded, as it is stored and as it is meant to be seen."""
    lies, found = orientation(image) >= 5, (image.height, image.width)
    if image.format == "TIFF":  # Pillow gives the size after turning
        return (found[::-1] if lies else found), found
    return found, (found[::-1] if lies else found)


def _turned(pixels: np.ndarray, tag: int, turn: bool, format: str | None) -> np.ndarray:
    """Pixels as Pillow gives them, turned or as they are stored; of a TIFF it has turned them already."""
    if tag == 1 or turn == (format == "TIFF"):
        return pixels
    mirrored, turns = _UPRIGHT[tag]
    return np.rot90(pixels[:, ::-1] if mirrored else pixels, turns if turn or mirrored else -turns)


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
    words, fix = str(error) or type(error).__name__, "replace the file or remove its record"
    if isinstance(error, UnidentifiedImageError):
        words = "it is of no format that is read, such as JPEG, PNG, TIFF or WebP"
        with contextlib.suppress(OSError), open(path, "rb") as file:
            head = file.read(32)
            words, fix = next((found for start, *found in _OTHER_FILES if head.startswith(start)), (words, fix))
            if head[4:12] in _HEIF:
                words, fix = "it is HEIC", "convert it to JPEG or PNG"
    return Issue("unreadable image", path, "", f"cannot be decoded as an image ({words})", fix)


def _wrong_size(path: str, found: tuple[int, int], size: tuple[int, int]) -> Issue:
    what = (
        f"is {found[1]} x {found[0]} pixels (width x height), its annotations are made for {size[1]} x {size[0]}, so "
        "that they would lie in the wrong place"
    )
    fix = "use the image that was annotated, or correct the record's width and height with its annotations"
    return Issue("image of another size", path, "", what, fix)
