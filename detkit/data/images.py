"""Image files to RGB arrays, and what their headers say."""

import os
import warnings
from typing import Any

import numpy as np
import torch
import torchvision.io
from PIL import Image, ImageOps

from detkit.data.issues import Issue
from detkit.registry import DataError

ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""

# Its decoder may leave torchvision one day; Pillow then does the work, as it does for all but common JPEG.
warnings.filterwarnings("ignore", "The image decoding and encoding capabilities", DeprecationWarning)


FORMATS = (
    "JPEG",
    "MPO",
    "PNG",
    "TIFF",
    "WEBP",
    "BMP",
    "DIB",
    "GIF",
    "PPM",
    "JPEG2000",
    "AVIF",
    "TGA",
    "PCX",
    "SGI",
    "ICO",
)
"""Pillow's raster formats that are read. Others may start programs: PostScript starts Ghostscript."""


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """An image file of ``FORMATS``, whose pixels are not read yet. Raises OSError for any other file."""
    Image.init()
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is no regular file")
    return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])


def read_image(path: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """An image file as ``(H, W, 3)`` uint8 RGB.

    Grayscale and palettes become RGB, an alpha channel is dropped, 16 bits are scaled to 8. A camera's EXIF
    orientation is applied if the image then has ``size``: tools that show images turned write turned sizes and boxes,
    those that do not write both as they are stored. Common JPEG is decoded by torchvision, all else by Pillow; both
    stand on libjpeg-turbo and give the same pixels.

    Args:
        path: the file.
        size: ``(height, width)`` that its annotations are made for; None for an image without annotations, which is
            turned as it is meant to be seen.

    Raises:
        DataError: the file is missing, is not an image that can be decoded, or has another size (each an ``Issue`` with
            its kind).
    """
    try:
        with open_image(path) as image:
            turned = _turned(image, size)
            found = None if turned else _common_jpeg(image, path)
            pixels = _rgb(ImageOps.exif_transpose(image) if turned else image, path) if found is None else found
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        raise _unreadable(path, error) from None
    if size is not None and pixels.shape[:2] != tuple(size):
        raise _wrong_size(path, (pixels.shape[0], pixels.shape[1]), size)
    return pixels


def check_image(path: str, size: tuple[int, int]) -> None:
    """Checks a file without decoding it: its header, its size, and whether its end is there.

    A JPEG or PNG without its end mark is decoded, because some programs write bytes behind it.

    Args:
        path: the file.
        size: ``(height, width)`` that it must have, possibly after its EXIF orientation.

    Raises:
        DataError: as ``read_image`` would.
    """
    try:
        with open_image(path) as image:
            found, kind = (image.height, image.width), image.format
    except Exception as error:
        raise _unreadable(path, error) from None
    if tuple(size) not in (found, found[::-1]):
        raise _wrong_size(path, found, size)
    if not _ends_well(path, kind) or found != tuple(size):
        read_image(path, size)


def _turned(image: Image.Image, size: tuple[int, int] | None) -> bool:
    orientation = image.getexif().get(ORIENTATION, 1)
    if orientation not in range(2, 9):
        return False
    seen = (image.width, image.height) if orientation >= 5 else (image.height, image.width)
    return size is None or seen == tuple(size)


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


def _rgb(image: Image.Image, path: str) -> np.ndarray:
    image.load()
    if image.mode == "F":
        what = "pixels are floating-point numbers of unknown range"
        raise Issue("unreadable image", path, "", what, "save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits; Pillow itself would cut off what is above 255
        gray = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return np.repeat(gray.astype(np.uint8)[:, :, None], 3, 2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


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
