"""Video files, frame by frame, by PyAV (the extra ``video``)."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from detkit.registry import DataError

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise ImportError("video files need PyAV: pip install 'detkit[video]' (or: pip install av)") from None
    return av


def video_frames(path: str | Path) -> Iterator[np.ndarray]:
    """The frames of a video in order, ``(H, W, 3)`` uint8 RGB, the way up that a player shows them.

    Raises:
        DataError: the file cannot be read as a video.
        ImportError: PyAV is not installed; the message says how to install it.
    """
    with _opened(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        try:
            for frame in container.decode(video=0):
                turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise, as np.rot90
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
        except _av().FFmpegError as error:
            raise DataError(f"{path}: decoding stopped ({error}); the file is damaged or cut off") from None


def video_info(path: str | Path) -> tuple[int, Fraction]:
    """How many frames the file says it has (0: it does not say), and frames a second. Raises as ``video_frames``."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        return stream.frames, stream.average_rate or Fraction(25)


def _opened(path: str | Path) -> Any:
    av = _av()
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a video ({error})") from None
    if not container.streams.video:
        container.close()
        raise DataError(f"{path}: holds no video stream")
    return container


class VideoWriter:
    """Writes pictures of one size as an MP4 video (H.264 where PyAV has it, else MPEG-4). A context manager.

    Args:
        path: the file; its folder is made.
        rate: frames a second.

    Raises:
        ImportError: PyAV is not installed; the message says how to install it.
    """

    def __init__(self, path: str | Path, rate: Fraction | float):
        av = _av()
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._stream = self._container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001))
        self._stream.pix_fmt = "yuv420p"
        self._size: tuple[int, int] | None = None

    def write(self, picture: np.ndarray) -> None:
        """Appends ``(H, W, 3)`` uint8. An odd last row or column is cut off: the codecs want even sizes.

        Raises ValueError if the picture differs in size from the first one.
        """
        picture = np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
        size = picture.shape[1], picture.shape[0]
        if self._size is None:
            self._size = size
            self._stream.width, self._stream.height = size
        if size != self._size:
            raise ValueError(f"{self.path}: a frame of {size} (width, height) in a video of {self._size}")
        frame = _av().VideoFrame.from_ndarray(picture, format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *error: object) -> None:
        if self._size is not None:
            self._container.mux(self._stream.encode())
        self._container.close()
