"""What may be given as an image, and the image files of a folder."""

import logging
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from detkit.data.image_files import IMAGE_SUFFIXES
from detkit.data.images import DEFAULT_READING, ImageReading, read_image
from detkit.registry import DataError

logger = logging.getLogger(__name__)

ImageLike = np.ndarray | Tensor | Image.Image | str | Path
"""``(H, W, 3)`` or ``(H, W)`` uint8 array, ``(3, H, W)`` uint8 tensor, PIL image, or a file; RGB. Alpha is dropped."""

EXPECTED = "expected a uint8 RGB array (H, W, 3) or (H, W), a uint8 tensor (3, H, W), a PIL image or a path"


def to_array(image: ImageLike, channels: int = 3, reading: ImageReading = DEFAULT_READING) -> np.ndarray:
    """Any image as ``(H, W, channels)`` uint8; for three channels, grayscale is repeated and alpha dropped.

    ``reading`` says how a file is read.

    Raises:
        ValueError: another type or shape; the message says what is expected.
        DataError: a file that cannot be read.
    """
    if isinstance(image, str | Path):
        return read_image(str(image), reading=reading)
    if isinstance(image, Image.Image):
        if image.mode.startswith("I") or image.mode == "F":
            raise ValueError(f"a PIL image of mode {image.mode}: {EXPECTED}; scale its values to 0..255 first")
        return np.array(image.convert("RGB"))
    if isinstance(image, Tensor):
        array = image.detach().cpu().numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    elif isinstance(image, np.ndarray):
        array = image
    else:
        raise ValueError(f"{type(image).__name__}: {EXPECTED}")
    what = f"{type(image).__name__} of {image.dtype}, shape {tuple(image.shape)}"
    if array.dtype != np.uint8:
        raise ValueError(f"{what}: {EXPECTED}; values in 0..1 are to be multiplied by 255 and rounded")
    if channels == 3 and array.ndim == 2:
        array = array[:, :, None]
    if array.ndim == 3 and channels == 3 and array.shape[2] in (1, 4):
        array = array[:, :, [0, 0, 0]] if array.shape[2] == 1 else array[:, :, :3]
    if array.ndim != 3 or array.shape[2] != channels or 0 in array.shape:
        more = f" of {channels} channels" if channels != 3 else ""
        raise ValueError(f"{what}: {EXPECTED}{more}; several images go in a list")
    return np.ascontiguousarray(array)


def image_files(folder: str | Path, *, recursive: bool = False) -> list[Path]:
    """The image files of a folder, by name. Raises DataError where there is no folder or no image."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    entries = folder.rglob("*") if recursive else folder.iterdir()
    found = sorted(p for p in entries if p.name[0] != "." and not p.is_dir())  # a dead link is named when it is read
    files = [p for p in found if p.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise DataError(f"{folder}: holds no image file (.jpg, .png, .tif, ...){'' if recursive else ' itself'}")
    if not recursive:
        deeper = sum(p.suffix.lower() in IMAGE_SUFFIXES for p in folder.rglob("*")) - len(files)
        if deeper > 0:
            logger.warning("%s: %d image files in its subfolders are left out; --recursive takes them", folder, deeper)
    others = [p.name for p in found if p.suffix.lower() not in IMAGE_SUFFIXES]
    if others:
        names = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        logger.warning(
            "%s: %d files are left out, as no images by their suffixes: %s (a video is taken where it is named itself)",
            *(folder, len(others), names),
        )
    return files
