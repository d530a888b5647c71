"""What a Predictor takes, as images one after the other."""

import dataclasses
import glob
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import numpy as np
from PIL import Image
from torch import Tensor

from detkit.data.image_files import IMAGE_SUFFIXES
from detkit.data.images import ImageReading
from detkit.paths import user_path
from detkit.predictor.live import newest_frames
from detkit.registry import DataError
from detkit.utils.download import DownloadError, cache_folder, fetch
from detkit.visualization import (
    VIDEO_SUFFIXES,
    ChannelOrder,
    ImageLike,
    image_files,
    is_live,
    shown_name,
    to_array,
    video_frames,
)
from detkit.zoo import find

ACCEPTED = (
    "expected an image: a file, an http(s) address, an array (H, W, 3) or (H, W) or a tensor (3, H, W) of uint8 or"
    " uint16, a PIL image; or many: a folder, a pattern such as photos/*.jpg, a video, a list or iterator of these; or"
    " with stream() what has no end: a camera's number, the address of a stream, or a list of such"
)


@dataclasses.dataclass(frozen=True)
class Item:
    """An image to predict.

    Args:
        image: pixels, or a local file.
        reading: how a file and what has more than 8 bits is read.
        channel_order: of an array or tensor.
        file_name: what it was read from, as the user named it; empty for pixels.
        frame: its number in a video or stream; None for an image by itself.
    """

    image: ImageLike
    reading: ImageReading
    channel_order: ChannelOrder = "RGB"
    file_name: str = ""
    frame: int | None = None

    def pixels(self, channels: int = 3) -> np.ndarray:
        """``(H, W, channels)`` uint8; see ``to_array``."""
        return to_array(self.image, channels, self.reading, self.channel_order)


def resolve(
    source: Any, reading: ImageReading, channel_order: ChannelOrder, max_value: float | None = None
) -> Item | Iterator[Item]:
    """The image that ``source`` is, or those that it stands for, each read when it is asked for.

    Args:
        source: what ``Predictor.stream`` takes.
        reading: how files are read, and what has more than 8 bits.
        channel_order: of arrays and tensors.
        max_value: takes the place of the reading's, unless it is None.

    Raises:
        DataError: a file or folder that is not there; an address that cannot be fetched.
        ValueError: anything that is none of these; a camera or stream beside what has an end.
    """
    if max_value is not None:
        if not max_value > 0:
            raise ValueError(f"max_value: expected a number above 0, got {max_value}")
        reading = dataclasses.replace(reading, max_value=max_value)
    if isinstance(source, np.ndarray | Tensor | Image.Image):
        return Item(source, reading, channel_order)
    if is_live(source):
        raise ValueError(
            f"{shown_name(source)}: a camera or stream has no end; give it to stream(), alone or in a list"
        )
    if isinstance(source, str | os.PathLike):
        return _resolve_name(os.fspath(source), reading)
    if isinstance(source, Iterable) and not isinstance(source, bytes | bytearray | Mapping | io.IOBase):
        return _each(source, reading, channel_order)
    raise ValueError(f"{type(source).__name__}: {ACCEPTED}")


def resolve_one(source: Any, reading: ImageReading, channel_order: ChannelOrder) -> Item:
    """As ``resolve``; raises ValueError for what is several images."""
    found = resolve(source, reading, channel_order)
    if not isinstance(found, Item):
        raise ValueError(f"{str(source)[:80]}: expected one image, got what stands for several")
    return found


def live_sources(source: Any) -> list[Any]:
    """The cameras and streams that ``source`` is; [] for what has an end."""
    parts = list(source) if isinstance(source, list | tuple) else [source]
    return parts if all(map(is_live, parts)) else []


def frames_of(source: Any, reading: ImageReading) -> Iterator[Item]:
    """The frames of videos, one video after the other, or of cameras and streams, a frame of each in turn.

    Raises as ``resolve``.
    """
    if live := live_sources(source):
        for part, number, frame in newest_frames(live, reading):
            yield Item(frame, reading, "RGB", shown_name(part), number)
    elif isinstance(source, list | tuple):
        for part in source:
            yield from frames_of(part, reading)
    elif isinstance(source, str | os.PathLike):
        yield from _frames(local_file(os.fspath(source)), shown_name(source), reading)
    else:
        raise ValueError(f"{type(source).__name__}: expected a video, a camera's number, a stream, or a list of such")


def _frames(path: Path, name: str, reading: ImageReading) -> Iterator[Item]:
    for number, frame in enumerate(video_frames(path, reading)):
        yield Item(frame, reading, "RGB", name, number)


def _each(sources: Iterable[Any], reading: ImageReading, channel_order: ChannelOrder) -> Iterator[Item]:
    for source in sources:
        found = resolve(source, reading, channel_order)
        if isinstance(found, Item):
            yield found
        else:
            yield from found


def _resolve_name(text: str, reading: ImageReading) -> Item | Iterator[Item]:
    path = local_file(text)
    if path.is_dir():
        return (Item(file, reading, file_name=str(file)) for file in image_files(path))
    if is_pattern(text):
        return _each(matching_files(path), reading, "RGB")
    if not os.path.lexists(path):
        raise DataError(f"{path}: there is no such file or folder")
    if path.suffix.lower() in VIDEO_SUFFIXES and path.suffix.lower() not in IMAGE_SUFFIXES:
        return _frames(path, shown_name(text), reading)
    return Item(path, reading, file_name=shown_name(text))


def is_pattern(text: str) -> bool:
    """Whether a text is a pattern of file names, and not the name of a file."""
    return glob.has_magic(text) and "://" not in text and not user_path(text).exists()


def matching_files(pattern: Path) -> Sequence[str]:
    """The image and video files that a pattern names, by name; ``**`` is any folders. Raises DataError for none."""
    names = sorted(glob.glob(str(pattern), recursive=True))
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    files = [name for name in names if name.lower().endswith(suffixes) and os.path.isfile(name)]
    if not files:
        what = f"{len(names)} files and folders match, none an image or video" if names else "nothing matches"
        raise DataError(f"{pattern}: {what}; photos/*.jpg matches files of a folder, photos/** all below it")
    return files


def local_file(text: str) -> Path:
    """The local file of a name or address, which is fetched. Raises as ``resolve``."""
    scheme, separator, rest = text.partition("://")
    if not text.strip():
        raise ValueError(f"an empty name; {ACCEPTED}")
    if not separator:
        return user_path(text)
    scheme = scheme.lower()
    if scheme == "file":
        return user_path(url2pathname(rest.removeprefix("localhost")))
    if scheme not in ("http", "https", "ftp"):
        raise ValueError(f"{shown_name(text)}: addresses of this kind are not read; {ACCEPTED}")
    try:
        known: Any = find(f"{scheme}://{rest}")
        known = dataclasses.replace(known, name="", hash="")  # no weights: digits in the name are no hash
        return fetch(known.addresses[0], cache_folder(), weights=known)
    except (DownloadError, ValueError) as error:
        raise DataError(str(error)) from None
