"""Video files, frame by frame, by PyAV (the extra ``video``)."""

import logging
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data.image_files import IMAGE_SUFFIXES, VARIABLE, decoder_warnings, max_pixels, num_frames
from detkit.data.images import DEFAULT_READING, ImageReading, image_frames
from detkit.registry import DataError
from detkit.visualization.cameras import SECONDS, is_live, live_options, shown_name

logger = logging.getLogger(__name__)

_SUFFIXES = """.mp4 .m4v .mov .qt .3gp .3g2 .f4v .mkv .webm .avi .wmv .asf .flv .mpg .mpeg .mpe .m2v .vob .ts .mts .m2ts
    .ogv .ogg .ogm .mxf .dv .rm .rmvb .divx .y4m .h264 .h265 .hevc .gif"""
VIDEO_SUFFIXES = tuple(_SUFFIXES.split())

_FORMATS = "mov,matroska,avi,asf,flv,mpegts,mpeg,mpegvideo,m4v,ogg,mxf,dv,rm,nut,ivf,h264,hevc,yuv4mpegpipe"
"""FFmpeg's formats that are read. Others are lists that name further files and addresses."""

_TICKS = 60_000
"""Units of time a second in a written video: the usual rates, 30000/1001 among them, are whole numbers of them."""


_DAY = 24 * 3600 * _TICKS


class Frame(np.ndarray):
    """A picture of a video: ``(H, W, 3)`` uint8 RGB.

    Attributes:
        time: seconds at which it is shown; None where the file does not say.
    """

    time: Fraction | None = None


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise ImportError("video files need PyAV: pip install 'detkit[video]' (or: pip install av)") from None
    return av


def is_video(path: str | Path) -> bool:
    """Whether a file is one of several pictures: a video by its suffix, or an image file of several frames."""
    suffix = Path(path).suffix.lower()
    return _num_frames(path) > 1 if suffix in IMAGE_SUFFIXES else suffix in VIDEO_SUFFIXES


def _num_frames(path: str | Path) -> int:
    with decoder_warnings():  # which are repeated with the file's name when it is read
        return num_frames(path)


def video_frames(path: str | Path | int, reading: ImageReading = DEFAULT_READING) -> Iterator[Frame]:
    """The frames of a video or an image file in order, the way up that a player shows them, in the size of the first.

    What is damaged costs its own frames, with a warning that says how much it was.

    Args:
        path: the file; or a camera or stream (see ``is_live``), which ends when it gives no frame for ten seconds.
        reading: how an image file is read.

    Raises:
        DataError: the source cannot be read as a video, or none of its frames can be decoded.
        ImportError: PyAV is not installed; the message says how to install it.
    """
    name = shown_name(path)
    if not is_live(path) and Path(name).suffix.lower() in IMAGE_SUFFIXES:
        yield from _frames_of_image(str(path), reading)
        return
    damaged, shown, error, size = 0, 0, "", dict[str, int]()
    last: Fraction | None = None
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except BlockingIOError:  # a camera whose next frame is not there yet
                time.sleep(0.005)
                packets = container.demux(stream)
                continue
            except (_av().FFmpegError, ValueError) as reason:
                packet, error = None, f"cut off ({reason})"
            if packet is None:
                break
            try:
                pictures = [_picture(frame, name, size) for frame in packet.decode()]
            except (_av().FFmpegError, ValueError) as reason:
                if isinstance(reason, DataError):
                    raise
                damaged, error = damaged + 1, str(reason)
                continue
            shown += len(pictures)
            last = pictures[-1].time if pictures else last
            yield from pictures
        error = error or _cut_off(container, shown, last)
    if error and shown:
        what = f"{damaged} packets are damaged" if damaged else f"is {error}"
        logger.warning("%s: %s; %d frames were read", name, what, shown)
    if not shown:
        raise DataError(f"{name}: no frame can be decoded ({error or 'it has none'}); the file is damaged or cut off")


def _frames_of_image(path: str, reading: ImageReading) -> Iterator[Frame]:
    """The frames of a GIF or a TIFF, each shown when those before it have been."""
    due = Fraction(0)
    for pixels, seconds in image_frames(path, reading):
        yield _frame(pixels, due if seconds else None)
        due += Fraction(seconds).limit_denominator(_TICKS)


def _cut_off(container: Any, shown: int, last: Fraction | None) -> str:
    """In what words a file has less than it says, where its end was reached without an error; else empty."""
    frames, seconds = container.streams.video[0].frames, (container.duration or 0) / 1e6
    if frames > shown + 2:
        return f"cut off: it says that it has {frames} frames"
    if last is not None and len(container.streams) == 1 and seconds > 1.1 * float(last) + 1:  # sound may be longer
        return f"cut off: it says that it lasts {seconds:.1f} s and ends after {float(last):.1f} s"
    return ""


def _picture(frame: Any, path: str, size: dict[str, int]) -> Frame:
    if not size:
        size.update(width=frame.width, height=frame.height)
        if frame.width * frame.height > max_pixels():
            what = (
                f"its frames are of {frame.width} x {frame.height} pixels, more than the {max_pixels():,} that are read"
            )
            raise DataError(f"{path}: {what}; set the environment variable {VARIABLE} to a larger number")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise, as np.rot90
    due = None if frame.pts is None or not frame.time_base else frame.pts * frame.time_base
    return _frame(np.rot90(frame.to_ndarray(format="rgb24", **size), turns), due)


def _frame(pixels: np.ndarray, time: Fraction | None) -> Frame:
    frame = np.ascontiguousarray(pixels).view(Frame)
    frame.time = time
    return frame


def video_info(path: str | Path) -> tuple[int, Fraction]:
    """How many frames the file says it has (0: it does not say), and frames a second. Raises as ``video_frames``."""
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        return _num_frames(path), Fraction(10)
    with _opened(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or Fraction(25)
        return max(stream.frames, 0), rate if Fraction(1, 1000) <= rate <= 1000 else Fraction(25)


def _opened(path: str | Path | int) -> Any:
    av, name = _av(), shown_name(path)
    if is_live(path):
        arguments, fix = live_options(path), "is it there, on, and used by no other program?"
    else:
        if Path(name).exists() and not Path(name).is_file():
            raise DataError(f"{name}: cannot be read as a video (it is no regular file)")
        arguments, fix = {"file": name, "options": {"format_whitelist": _FORMATS}}, "it is damaged, or of no known kind"
    began = time.monotonic()
    try:
        container = av.open(**arguments, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        late = is_live(path) and time.monotonic() - began >= SECONDS
        words = f"no answer in {SECONDS:g} s" if late else getattr(error, "strerror", error)
        raise DataError(f"{name}: cannot be read as a video ({words}); {fix}") from None
    if not container.streams.video:
        sound = bool(container.streams.audio)
        container.close()
        what = (
            "holds no video, only sound" if sound else "has no video stream; it is damaged, or cut off before its index"
        )
        raise DataError(f"{name}: {what}")
    return container


class VideoWriter:
    """Writes pictures of one size as an MP4 video (H.264 where PyAV has it, else MPEG-4). A context manager.

    Args:
        path: the file; its folder is made.
        rate: frames a second, for pictures that do not say when they are shown.

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
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._length = max(1, round(_TICKS / rate))
        self._size: tuple[int, int] | None = None
        self._zero: Fraction | None = None
        self._last = -self._length

    def write(self, picture: np.ndarray, time: Fraction | None = None) -> None:
        """Appends ``(H, W, 3)`` uint8. An odd last row or column is cut off: the codecs want even sizes.

        Args:
            picture: what is shown.
            time: when, in seconds; None takes a ``Frame``'s own time, or else one frame after the last picture.

        Raises:
            DataError: the picture differs in size from the first one.
        """
        time = getattr(picture, "time", None) if time is None else time
        picture = np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
        size = picture.shape[1], picture.shape[0]
        if self._size is None:
            self._size = size
            self._stream.width, self._stream.height = size
        if size != self._size:
            raise DataError(f"{self.path}: a frame of {size} (width, height) in a video of {self._size}")
        frame = _av().VideoFrame.from_ndarray(picture, format="rgb24")
        next_ = self._last + self._length
        due = next_ if time is None or self._zero is None else round((time - self._zero) * _TICKS)
        if not self._last < due <= self._last + _DAY:  # times that begin again, or are damaged
            due, self._zero = next_, None
        if time is not None and self._zero is None:
            self._zero = time - Fraction(due, _TICKS)
        self._last = frame.pts = due
        frame.time_base, frame.duration = Fraction(1, _TICKS), self._length
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self._size is not None:
                self._container.mux(self._stream.encode())
        finally:
            self._container.close()
        if self._size is None:
            self.path.unlink(missing_ok=True)
