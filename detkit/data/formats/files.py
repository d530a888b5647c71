"""Folder: the files of a folder of data, read as text, JSON, YAML, XML and masks, with the project's errors."""

import base64
import contextlib
import io
import json
import os
import re
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import yaml
from PIL import Image, UnidentifiedImageError

from detkit.config.yaml_file import read_core_yaml
from detkit.data.bit_depth import scaled, to_eight_bits
from detkit.data.formats.file_index import FileIndex
from detkit.data.image_files import load, log_once, open_image
from detkit.data.issues import Issue
from detkit.registry import DataError

HEAD = 1 << 16
"""Bytes of a file by which its format is known."""
PEEK = 1 << 20
"""Bytes at both ends of a file whose head does not say it."""
LARGEST = 1 << 28
"""Bytes of a text file that is not a COCO file, or of an embedded image; larger ones are a mistake or an attack."""


class Folder(FileIndex):
    """A folder of data, and what is in its files.

    Args:
        path, given: see ``FileIndex``.
        stored: whether labels are of images as their pixels are stored, see ``ImageReading.orientation``.
    """

    def __init__(self, path: str | os.PathLike[str], given: str | None = None, stored: bool = False):
        super().__init__(path, given)
        self.stored = stored

    def head(self, name: str) -> str:
        """The first letters of a text file, enough to see what it is; "" where it cannot be read."""
        return self._ends(name, HEAD, 0)

    def ends(self, name: str) -> str:
        """Both ends of a text file, a small one as a whole; "" where it cannot be read."""
        return self._ends(name, PEEK, PEEK)

    def _ends(self, name: str, first: int, last: int) -> str:
        if not os.path.isfile(self.path / name):  # a named pipe would be waited for
            return ""
        try:
            with open(self.path / name, "rb") as file:
                content = file.read(first)
                file.seek(max(file.seek(0, os.SEEK_END) - last, len(content)))
                content += file.read()
        except OSError:
            return ""
        return content.decode(json.detect_encoding(content), "replace")

    def text(self, name: str, is_json: bool = False) -> str:
        """A text file: UTF-16 with a mark, what XML declares, UTF-8; else, but not in JSON, Latin-1."""
        path = self.path / name
        try:
            if path.stat().st_size > LARGEST:
                raise DataError(f"{path}: has {path.stat().st_size >> 20} MiB; expected at most {LARGEST >> 20}")
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        declared = re.match(rb"""\s*<\?xml[^>]*encoding=["']([\w.-]+)""", content[:200])
        other = declared[1].decode() if declared else "latin-1"
        pairs = re.match("gb|big5|euc|shift", other, re.IGNORECASE)  # a few letters of these may be UTF-8 by chance
        first = ("utf-16",) if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ()
        encodings = first or ((other, "utf-8-sig") if pairs else ("utf-8-sig", other))
        for encoding in (json.detect_encoding(content),) if is_json else encodings:
            with contextlib.suppress(UnicodeDecodeError, LookupError):
                text = content.decode(encoding)
                if encoding == "latin-1":
                    fix = "save it as UTF-8 if names look wrong"
                    log_once(Issue("not UTF-8", str(path), "", "is not UTF-8 and is read as Latin-1", fix, "warning"))
                return text
        fix = "iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW converts it, with its own encoding behind -f"
        raise DataError(f"{path}: is not text in UTF-8; {fix}")

    def json(self, name: str) -> Any:
        """A JSON file."""
        try:
            return msgspec.json.decode(self.text(name, is_json=True).encode())
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise DataError(f"{self.path / name}: is not JSON ({error}); export or save it again") from None

    def yaml(self, name: str) -> dict[str, Any]:
        """A YAML file that holds a mapping, without aliases, whose expansion takes the machine's memory."""
        text = self.text(name)
        try:
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
                raise DataError(f"{self.path / name}: has YAML aliases (*name); write the values out")
            found = read_core_yaml(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise DataError(f"{self.path / name}: is not YAML ({' '.join(str(error).split())[:200]})") from None
        if not isinstance(found, dict):
            raise DataError(f"{self.path / name}: expected key: value lines, got {str(found)[:40]!r}")
        return found

    def xml(self, name: str) -> ElementTree.Element:
        """An XML file without entities of its own, whose expansion takes the machine's memory."""
        text = self.text(name)
        if "<!ENTITY" in text:
            raise DataError(f"{self.path / name}: declares XML entities; write their text out")
        try:
            return ElementTree.fromstring(text)  # a text, so that the declared encoding does not count again
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise DataError(f"{self.path / name}: is not XML ({error}); export or save it again") from None

    def mask(self, name: str) -> np.ndarray:
        """A PNG of ids: ``(H, W)`` of its values or palette indices, or ``(H, W, 3)`` of its colours."""
        try:
            with open_image(self.path / name) as image:
                return _pixels(image)
        except Exception as error:
            raise DataError(f"{self.path / name}: cannot be read as an image ({error})") from None


def embedded_image(text: str, origin: str, compressed: bool = False) -> np.ndarray:
    """The values of a mask that is written as base64 text, and ``compressed`` with zlib before; RGBA with transparency.

    Raises:
        DataError: it is none.
    """
    with _embedded(text, origin, compressed) as image:
        image.load()
        has_colour = image.mode in ("P", "L", "1", "RGB") and "transparency" in image.info
        return _pixels(image.convert("RGBA") if has_colour or image.mode in ("LA", "PA") else image)


def embedded_rgb(text: str, origin: str, max_value: float | None) -> np.ndarray:
    """``(H, W, 3)`` uint8 RGB of an image that is written as base64 text, as ``read_image`` reads a file.

    Args:
        text: the image.
        origin: where it stands, for messages.
        max_value: as in ``ImageReading``.

    Raises:
        DataError: it is none.
    """
    with _embedded(text, origin) as image:
        load(image)
        if image.mode[0] in "IF":
            return scaled(np.asarray(image)[..., None], origin, max_value, 0.0, log_once)
        return np.ascontiguousarray(to_eight_bits(image))


@contextlib.contextmanager
def _embedded(text: str, origin: str, compressed: bool = False) -> Iterator[Image.Image]:
    try:
        content = base64.b64decode(text, validate=True)
        if compressed:
            content = zlib.decompressobj().decompress(content, LARGEST)
        with open_image(io.BytesIO(content)) as image:
            yield image
    except UnidentifiedImageError:
        raise DataError(f"{origin}: its embedded image is of no known kind; export or save it again") from None
    except Exception as error:
        raise DataError(f"{origin}: its embedded image cannot be read ({error})") from None


def _pixels(image: Image.Image) -> np.ndarray:
    image.load()
    if image.mode == "F" and not (np.array(image, np.float64) % 1).any():  # ids that were saved as such numbers
        return np.array(image, np.int64)
    return np.array(image if image.mode in ("P", "L", "1", "RGBA") or image.mode[0] == "I" else image.convert("RGB"))
