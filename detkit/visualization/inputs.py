"""What may be given as an image, and the image files of a folder."""

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from detkit.data.bit_depth import scaled, to_eight_bits
from detkit.data.image_files import IMAGE_SUFFIXES, load, log_once
from detkit.data.images import DEFAULT_READING, ImageReading, read_image
from detkit.data.issues import Issue
from detkit.data.walk import walk
from detkit.registry import DataError

logger = logging.getLogger(__name__)

ImageLike = np.ndarray | Tensor | Image.Image | str | Path
"""An array ``(H, W, 3)`` or ``(H, W)``, a tensor ``(3, H, W)``, a PIL image, or a file. Alpha is dropped."""

ChannelOrder = Literal["RGB", "BGR"]
"""Of arrays and tensors; OpenCV's are BGR."""

EXPECTED = (
    "expected an array (H, W, 3) or (H, W) or a tensor (3, H, W), of uint8 or uint16, RGB or with"
    " channel_order='BGR', a PIL image or a path"
)


def to_array(
    image: ImageLike,
    channels: int = 3,
    reading: ImageReading = DEFAULT_READING,
    channel_order: ChannelOrder = "RGB",
) -> np.ndarray:
    """Any image as ``(H, W, channels)`` uint8; for three channels, grayscale is repeated and alpha dropped.

    Args:
        image: an array or tensor, on any device, has 8 bits, or 16, of which ``reading.max_value`` becomes 255, else
            65535; other numbers need that value. A PIL image may be of any mode, and is turned as its EXIF tag says.
        channels: of what comes out.
        reading: how a file is read, and what has more than 8 bits.
        channel_order: of an array or tensor of colours.

    Raises:
        ValueError: another type or shape, or numbers of unknown range; the message says what is expected.
        DataError: a file that cannot be read.
    """
    if isinstance(image, str | Path):
        return read_image(str(image), reading=reading)
    if channel_order not in ("RGB", "BGR"):
        raise ValueError(f"channel_order: expected 'RGB' or 'BGR', got {channel_order!r}")
    if isinstance(image, Image.Image):
        array, channel_order = _of_pil(image, reading), "RGB"
    elif isinstance(image, Tensor):
        here = image.detach().cpu()
        array = (here.float() if here.is_floating_point() else here).numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    elif isinstance(image, np.ndarray):
        array = image
    else:
        raise ValueError(f"{type(image).__name__}: {EXPECTED}")
    what = type(image).__name__
    if not isinstance(image, Image.Image):
        what += f" of {image.dtype}, shape {tuple(image.shape)}"
    if channels == 3 and array.ndim == 2:
        array = array[:, :, None]
    if array.ndim == 3 and channels == 3 and array.shape[2] in (1, 4):
        array = array[:, :, [0, 0, 0]] if array.shape[2] == 1 else array[:, :, :3]
    if array.ndim != 3 or array.shape[2] != channels or 0 in array.shape:
        raise ValueError(f"{what}: {EXPECTED}{_shape_words(image, channels)}")
    if channel_order == "BGR":
        if channels != 3:
            raise ValueError(f"channel_order='BGR' is of three channels, and the model takes {channels}; leave it out")
        array = array[:, :, ::-1]
    return np.ascontiguousarray(array if array.dtype == np.uint8 else _as_bytes(array, what, reading))


def _of_pil(image: Image.Image, reading: ImageReading) -> np.ndarray:
    """``(H, W, 3)`` uint8 of an image of up to 8 bits, ``(H, W)`` of a deeper one."""
    try:
        load(image)
    except Exception as error:  # whatever a broken file leads Pillow's decoders to
        raise DataError(f"{getattr(image, 'filename', '') or 'a PIL image'}: cannot be decoded ({error})") from None
    if reading.orientation == "auto":
        image = ImageOps.exif_transpose(image)
    if image.mode == "I":  # in which Pillow has 16 bits, too
        array = np.asarray(image)
        return array.astype(np.uint16) if 0 <= array.min(initial=0) <= array.max(initial=0) <= 65535 else array
    return np.asarray(image) if image.mode == "F" or image.mode.startswith("I") else to_eight_bits(image)


def _as_bytes(array: np.ndarray, what: str, reading: ImageReading) -> np.ndarray:
    """Numbers of other than 8 bits, scaled to 8. Raises ValueError where the value of white is not known."""
    if array.dtype.kind not in "uif":
        raise ValueError(f"{what}: {EXPECTED}")
    largest, white = float(np.nanmax(array, initial=0)), reading.max_value or 65535.0
    if not (reading.max_value or (array.dtype.kind, array.dtype.itemsize) == ("u", 2)):  # of either byte order
        fix = "say which value is white: max_value=1.0 or max_value=255 (uint8 and uint16 need not)"
        raise ValueError(f"{what}, values up to {largest:g}: {fix}")
    too_small = 4 * largest <= white if reading.max_value is None else array.dtype.kind == "f" and largest <= 1 < white
    if largest > 0 and (too_small or largest > 1.1 * white):
        words = f"has values up to {largest:g}, and is scaled as if {white:g} were white"
        log_once(Issue("unused bits", what, "", words, "give the value of white, e.g. max_value=4095", "warning"))
    return scaled(array, what, white, 0.0, log_once)


def _shape_words(image: np.ndarray | Tensor | Image.Image, channels: int) -> str:
    """What to do with an array or tensor of a wrong shape."""
    words = f" of {channels} channels" if channels != 3 else ""
    if isinstance(image, Image.Image):
        return words
    shape = tuple(image.shape)
    if len(shape) == 3 and isinstance(image, Tensor) and shape[2] in (1, channels, 4):
        return f"{words}; a tensor with the channels last needs .permute(2, 0, 1)"
    if len(shape) == 3 and shape[0] in (1, channels, 4):
        return f"{words}; an array with the channels first needs .transpose(1, 2, 0)"
    return f"{words}; several images go in a list: list(images)" if len(shape) == 4 else words


def image_files(folder: str | Path, *, recursive: bool = False) -> list[Path]:
    """The image files of a folder, by name. Raises DataError where there is no folder or no image."""
    return sorted(Path(folder) / name for name in walk_images(folder, recursive=recursive))


def walk_images(folder: str | Path, *, recursive: bool = False) -> Iterator[str]:
    """As ``image_files``, but their paths below the folder, one by one: the names of one folder at a time are held.

    ``walk`` says which folders are gone into.
    """
    folder, found, others, kinds = Path(folder), 0, 0, list[str]()
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    folders = walk(folder)
    for place, names in folders if recursive else itertools.islice(folders, 1):
        for name in names:  # a dead link is named when it is read
            if name.lower().endswith(IMAGE_SUFFIXES):
                found += 1
                yield place + name
            else:
                others, kinds = others + 1, [*kinds, name][:5]
    if not recursive and found and any(name.lower().endswith(IMAGE_SUFFIXES) for _, names in folders for name in names):
        logger.warning("%s: the images in its subfolders are left out; recursive=True (--recursive) takes them", folder)
    if not found:
        raise DataError(f"{folder}: holds no image file (.jpg, .png, .tif, ...){'' if recursive else ' itself'}")
    if others:
        shown = ", ".join(kinds) + (", ..." if others > 5 else "")
        words = "%s: %d files are left out, as no images by their suffixes: %s (name a video itself to have it taken)"
        logger.warning(words, folder, others, shown)
