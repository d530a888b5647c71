"""Image files as they lie on the disk: which kinds are opened, within what limits, and what decoders warn of."""

import contextlib
import io
import logging
import os
import re
import struct
import tempfile
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import Image, PngImagePlugin
from torch.utils.data import get_worker_info

from detkit.data.issues import Issue, Report
from detkit.registry import DataError

logger = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF", "TGA", "PCX", "SGI", "ICO")
"""Pillow's raster formats that are read. Others may start programs: PostScript starts Ghostscript."""

_SUFFIXES = """.jpg .jpeg .jpe .jfif .mpo .png .apng .tif .tiff .webp .bmp .dib .gif .ppm .pgm .pbm .pnm .pfm
    .jp2 .j2k .jpc .jpf .jpx .j2c .avif .avifs .tga .icb .vda .vst .pcx .sgi .rgb .rgba .bw .ico"""
IMAGE_SUFFIXES = tuple(_SUFFIXES.split())
"""The suffixes of ``FORMATS``."""

MAX_PIXELS = 2**27
"""More pixels are not decoded: they take 4 bytes each, and several copies on the way."""
VARIABLE = "DETKIT_MAX_PIXELS"
"""The environment variable by which another number is given."""

_DECODERS = re.compile(  # of libjpeg, and of libtiff: the name of a function, or that of Pillow's file
    r"(?:Corrupt JPEG|Premature end of JPEG|Inconsistent prog|Invalid SOS|Unknown Adobe|Warning: unknown"
    r"|tempfile\.tif: |\w*(?:JPEG|TIFF|LZW|ZIP|Fax|PackBits|Pixar|WebP|ZSTD|LERC|LZMA)\w*: )[^\n]*\n?"
)
_capturing = threading.RLock()
_text_limit = threading.Lock()
_logged: dict[str, set[str]] = {}
_MOST_LOGGED, _MOST_LOGGED_BY_A_WORKER = 100, 5


def open_image(path: str | os.PathLike[str] | io.BytesIO) -> Image.Image:
    """An image file of ``FORMATS``, or the content of one, whose pixels are not read yet.

    Raises:
        OSError, or what else Pillow raises: it is no such file.
        DataError: it has more pixels than are read (an ``Issue``), or ``VARIABLE`` is no number.
    """
    Image.init()
    if not isinstance(path, io.BytesIO) and os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is no regular file")
    limit = max_pixels()
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS and VARIABLE in os.environ:
        Image.MAX_IMAGE_PIXELS = limit
    try:
        image = _open(path)
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))
        raise _too_large(path, f"has {int(found[0]):,} pixels" if found else "is too large", limit) from None
    if image.width * image.height > limit:
        image.close()
        raise _too_large(path, f"is {image.width} x {image.height} pixels (width x height)", limit)
    return image


def max_pixels() -> int:
    """How many pixels an image may have. Raises DataError where ``VARIABLE`` is no number above 0."""
    given = os.environ.get(VARIABLE, str(MAX_PIXELS))
    if not given.isdecimal() or not 0 < int(given[:20]) < 2**62:
        raise DataError(
            f"the environment variable {VARIABLE} is '{given}'; expected a number of pixels such as 500000000"
        )
    return int(given)


def _open(path: Any) -> Image.Image:
    kinds = [name for name in FORMATS if name in Image.OPEN]
    try:
        return Image.open(path, formats=kinds)
    except ValueError as error:
        if "MAX_TEXT_" not in str(error):
            raise
    with _text_limit:  # a sound PNG with a long text, such as the workflow that made it; all texts together are bounded
        usual, PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
        try:
            return Image.open(path, formats=kinds)
        except ValueError as error:
            what = f"carries texts of more than {PngImagePlugin.MAX_TEXT_MEMORY >> 20} MiB ({error})"
            raise Issue("image above the size limit", str(path), "", what, "save it without its texts") from None
        finally:
            PngImagePlugin.MAX_TEXT_CHUNK = usual


def load(image: Image.Image) -> None:
    """Decodes the present frame. Long texts behind the pixels of a PNG, which nobody needs, do no harm."""
    try:
        image.load()
    except ValueError as error:
        if "MAX_TEXT_" not in str(error):
            raise
        image.load()


def _too_large(path: Any, what: str, limit: int) -> Issue:
    fix = f"set the environment variable {VARIABLE} to a larger number if memory allows (4 bytes a pixel, some copies)"
    place = "the image" if isinstance(path, io.BytesIO) else str(path)
    return Issue("image above the size limit", place, "", f"{what}, more than the {limit:,} that are read", fix)


def num_frames(path: str | os.PathLike[str]) -> int:
    """How many pictures a file holds: frames of a GIF, PNG, WebP or AVIF, full-size pages of a TIFF; 1 if unknown.

    Previews, as in a camera's MPO and a TIFF of several resolutions, do not count.
    """
    frames = 0
    with contextlib.suppress(Exception), open_image(path) as image:  # of a broken file the reader says what is wrong
        if image.format == "MPO" or not getattr(image, "is_animated", False):
            return 1
        if image.format != "TIFF":
            return int(getattr(image, "n_frames", 1))
        for number in range(10_000):
            image.seek(number)
            frames += not is_preview(image)
    return max(frames, 1)


def is_preview(image: Any) -> bool:
    """Whether the present page of a TIFF is another one at a lower resolution, or a mask."""
    return bool(image.tag_v2.get(254, 0) & 5)  # NewSubfileType: of reduced resolution, or a mask


def png_facts(path: str | os.PathLike[str]) -> tuple[bool, int, int]:
    """Of a PNG: whether all its checksums are right, its bits a sample, and how many of them it says are used."""
    with open(path, "rb") as file:
        content = memoryview(file.read())
    sound, bits, used, at = True, content[24], 0, 8
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 8 + length
        if end + 4 > len(content):
            break
        sound &= zlib.crc32(content[at + 4 : end]) == int.from_bytes(content[end : end + 4], "big")
        used = max(content[at + 8 : end], default=0) if kind == b"sBIT" else used
        at = end + 4 if kind != b"IEND" else len(content)
    return sound, bits, used or bits


def log_once(issue: Issue) -> None:
    """Logs what is odd about a file once in a process; of each kind the first 100 files, or 5 in a loader process."""
    seen = _logged.setdefault(issue.kind, set())
    most = _MOST_LOGGED if get_worker_info() is None else _MOST_LOGGED_BY_A_WORKER
    if issue.place not in seen and len(seen) < most:
        seen.add(issue.place)
        more = "; more of these are not named, detkit doctor lists all" if len(seen) == most else ""
        logger.warning("%s%s", issue, more)


@contextlib.contextmanager
def naming_warnings(path: str, report: Report) -> Iterator[None]:
    """What decoders warn of in this context is reported with the file's name."""
    with decoder_warnings() as found:
        yield
    if found:
        fix = "look at the image, and replace the file if it is damaged"
        report(Issue("decoder's warning", path, "", f"its decoder warns: {'; '.join(found)}", fix, "warning"))


@contextlib.contextmanager
def decoder_warnings() -> Iterator[list[str]]:
    """What decoders warn of in this context, when it is left: libjpeg on file descriptor 2, Pillow by ``warnings``.

    What others say meanwhile is passed on afterwards. One thread at a time is in such a context.
    """
    found: list[str] = []
    caught, text = [], list[bytes]()
    try:
        with _capturing, warnings.catch_warnings(record=True) as caught, _captured_stderr() as text:
            warnings.simplefilter("always")
            yield found
    finally:
        for warning in caught:
            if "PIL" not in warning.filename:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
            elif not issubclass(warning.category, Image.DecompressionBombWarning | DeprecationWarning):
                found.append(str(warning.message).strip())
        said = b"".join(text).decode(errors="replace")
        found += [words.strip() for words in _DECODERS.findall(said)]
        if other := _DECODERS.sub("", said):
            with contextlib.suppress(OSError):
                os.write(2, other.encode())
        found[:] = dict.fromkeys(found)


@contextlib.contextmanager
def _captured_stderr() -> Iterator[list[bytes]]:
    text: list[bytes] = []
    try:
        usual = os.dup(2)
    except OSError:  # there is none
        yield text
        return
    try:
        with (
            tempfile.TemporaryFile()
            if not hasattr(os, "memfd_create")
            else open(os.memfd_create("stderr"), "w+b") as file
        ):
            os.dup2(file.fileno(), 2)
            try:
                yield text
            finally:
                os.dup2(usual, 2)
                file.seek(0)
                text.append(file.read())
    finally:
        os.close(usual)
