"""A folder of data: its files by name, and their text as JSON, YAML, XML and masks, with the project's errors."""

import base64
import contextlib
import functools
import io
import itertools
import json
import os
import re
import xml.etree.ElementTree as ElementTree
import zlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import msgspec
import numpy as np
import yaml
from PIL import Image

from detkit.config.yaml_file import read_core_yaml
from detkit.data.file_names import plain
from detkit.data.formats.parts import purpose_of_folder
from detkit.data.image_files import IMAGE_SUFFIXES, log_once, open_image
from detkit.data.issues import Issue
from detkit.data.walk import walk
from detkit.registry import DataError

HEAD = 1 << 16
"""Bytes of a file by which its format is known."""
PEEK = 1 << 20
"""Bytes at both ends of a file whose head does not say it."""
LARGEST = 1 << 28
"""Bytes of a text file that is not a COCO file, or of an embedded image; larger ones are a mistake or an attack."""


class Folder:
    """A folder and the names of all files in it.

    Args:
        path: the folder. Hidden files and folders are left out, and what a run of detkit has left in it.
        given: the file in it that the user named, if any.
        stored: whether labels are of images as their pixels are stored, see ``ImageReading.orientation``.
    """

    def __init__(self, path: str | os.PathLike[str], given: str | None = None, stored: bool = False):
        self.path, self.given, self.stored = Path(path), given, stored

    def candidates(self, *patterns: str) -> list[str]:
        """The file that the user named, or those that match one of the patterns."""
        matches = [_pattern(pattern) for pattern in patterns]
        return [name for name in ([self.given] if self.given else self.files) if any(match(name) for match in matches)]

    @functools.cached_property
    def files(self) -> dict[str, None]:
        """The paths of all files below it, with ``/``, in order."""
        found = dict(walk(self.path))
        folders = sorted(found, key=lambda folder: folder.split("/"))  # as they would lie there without links
        return dict.fromkeys(folder + name for folder in folders for name in found[folder])

    @functools.cached_property
    def images(self) -> dict[str, None]:
        """The paths of its image files."""
        return dict.fromkeys(name for name in self.files if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES)

    @functools.cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        out: dict[str, list[str]] = {}
        for name in self.images:
            out.setdefault(PurePosixPath(name).stem, []).append(name)
        return out

    @functools.cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.files)

    @functools.cached_property
    def _by_end(self) -> dict[str, list[str]]:
        out: dict[str, list[str]] = {}
        for name in self.files:
            out.setdefault("/".join(name.split("/")[-2:]), []).append(name)
        return out

    @functools.cached_property
    def _by_plain(self) -> dict[str, str]:
        return {plain(name): name for name in self.files}

    @functools.cached_property
    def _by_name(self) -> dict[str, list[str]]:
        out: dict[str, list[str]] = {}
        for name in self.images:
            out.setdefault(plain(PurePosixPath(name).name), []).append(name)
        return out

    def glob(self, pattern: str) -> list[str]:
        """The files whose path ends in the pattern, in which ``*`` stands for letters of one name."""
        return list(filter(_pattern(pattern), self.files))

    def below(self, folder: str) -> list[str]:
        """The files below a folder of it, sorted."""
        start = "" if folder in ("", ".") else f"{folder.rstrip('/')}/"
        return self._sorted[bisect_left(self._sorted, start) : bisect_left(self._sorted, f"{start}\U0010ffff")]

    def named(self, end: str) -> list[str]:
        """The files whose path ends in ``folder/name``."""
        return self._by_end.get(end, [])

    def image(self, name: str, near: str | Sequence[str] = "", origin: str = "") -> str:
        """The image that a file speaks of.

        Args:
            name: its path as it is written, or its last part; any slash, and an address too.
            near: the folders where it is looked for first; of several images those below them count.
            origin: where it is written, for the message.

        Raises:
            DataError: there is none, one of that name lies in another part alone, or several lie in different folders.
        """
        near = [near] if isinstance(near, str) else near
        written = self.inner(name.replace("\\", "/").split("?d=")[-1])
        spellings = dict.fromkeys((written, unquote(written)))
        for start, spelt in itertools.product((*near, ""), spellings):
            path = os.path.normpath(os.path.join(start, spelt)).replace(os.sep, "/")
            if path in self.images:
                return path
        last = PurePosixPath(written).name
        found = self.images_named(last) or self.images_named(_UPLOAD.sub("", last))
        if not found and PurePosixPath(written).suffix.lower() not in IMAGE_SUFFIXES:  # CVAT's frames of videos
            found = self._by_stem.get(last, [])
        above = os.path.dirname(written)
        others, found = found, self.of_own_part(found, os.path.basename(above), *near, above)
        ends = [_shared_folders(path, written) for path in found]
        found = [path for path, end in zip(found, ends) if end == max(ends)]
        below = tuple(f"{start}/" for start in near if start not in ("", "."))
        found = found if len(found) < 2 else [path for path in found if path.startswith(below)] or found
        if len(found) != 1:
            why = f"{len(found)} images have this name" if found else "there is no such image below it"
            why = f"'{others[0]}' is of another part" if others and not found else why
            raise DataError(f"{self.path}: {origin or 'a record'} names the image '{name[:200]}', but {why}")
        return found[0]

    def inner(self, path: str) -> str:
        """The path below this folder of an absolute one that lies in it; any other as it is."""
        return next((path.removeprefix(root) for root in self._roots if path.startswith(root)), path)

    @functools.cached_property
    def _roots(self) -> tuple[str, ...]:
        return tuple(f"{path.as_posix().rstrip('/')}/" for path in (self.path.absolute(), self.path.resolve()))

    def images_named(self, name: str) -> list[str]:
        """The images of a name, whatever their folder; if none is written so, those written otherwise (case, %20)."""
        found = self._by_name.get(plain(name), [])
        return [path for path in found if PurePosixPath(path).name == name] or found

    def of_own_part(self, found: Sequence[str], *folders: str) -> list[str]:
        """The images that lie in no other part than the first of the folders that is of one.

        All of them where that part has no images of its own, as where labels were divided, but not their images.
        """
        own = next(filter(None, map(purpose_of_folder, folders)), None)
        kept = {own, ""} if own in self._image_purposes else self._image_purposes
        return [path for path in found if purpose_of_folder(os.path.dirname(path)) in kept]

    @functools.cached_property
    def _image_purposes(self) -> set[str | None]:
        return {purpose_of_folder(folder) for folder in {os.path.dirname(name) for name in self.images}}

    def image_of_stem(self, stem: str, near: str = "", beside: str = "") -> str | None:
        """The image whose name without suffix is ``stem``, but none of another part than ``beside``.

        Of several it is one in a folder ``near``, and of these the one that shares most folders with ``beside``.
        """
        found = self.of_own_part(self._by_stem.get(stem, []), os.path.dirname(beside))
        inside = [name for name in found if near in name.split("/")[:-1]] if near else found
        theirs = beside.split("/")[:-1]
        return max(inside or found, key=lambda name: len({*name.split("/")[:-1]}.intersection(theirs)), default=None)

    def same(self, name: str) -> str | None:
        """The file of this path, also where it is written otherwise (case, Unicode form); None: there is none."""
        return name if name in self.files else self._by_plain.get(plain(name))

    def head(self, name: str) -> str:
        """The first letters of a text file, enough to see what it is; "" where it cannot be read."""
        return self._ends(name, HEAD, 0)

    def ends(self, name: str) -> str:
        """Both ends of a text file, a small one as a whole; "" where it cannot be read."""
        return self._ends(name, PEEK, PEEK)

    def _ends(self, name: str, first: int, last: int) -> str:
        try:
            with open(self.path / name, "rb") as file:
                content = file.read(first)
                file.seek(max(file.seek(0, os.SEEK_END) - last, len(content)))
                content += file.read()
        except OSError:
            return ""
        return content.decode(json.detect_encoding(content), "replace")

    def text(self, name: str, is_json: bool = False) -> str:
        """A text file: UTF-8, UTF-16 with a mark, what XML declares; else, but not in JSON, Latin-1."""
        path = self.path / name
        try:
            if path.stat().st_size > LARGEST:
                raise DataError(f"{path}: has {path.stat().st_size >> 20} MiB; expected at most {LARGEST >> 20}")
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        declared = re.match(rb"""\s*<\?xml[^>]*encoding=["']([\w.-]+)""", content[:200])
        other = declared[1].decode() if declared else "latin-1"
        encodings = ("utf-16",) if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", other)
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
            raise DataError(f"{self.path / name}: is not JSON ({error})") from None

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
            raise DataError(f"{self.path / name}: is not XML ({error})") from None

    def mask(self, name: str) -> np.ndarray:
        """A PNG of ids: ``(H, W)`` of its values or palette indices, or ``(H, W, 3)`` of its colours."""
        try:
            with open_image(self.path / name) as image:
                return _pixels(image)
        except Exception as error:
            raise DataError(f"{self.path / name}: cannot be read as an image ({error})") from None


_UPLOAD = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the names of images that are uploaded."""


def _shared_folders(*paths: str) -> int:
    """How many folders two paths have in common, from the last up."""
    pairs = zip(*([plain(part) for part in PurePosixPath(path).parts[-2::-1]] for path in paths))
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


@functools.cache
def _pattern(pattern: str) -> Callable[[str], Any]:
    return re.compile("(?:.*/)?" + re.escape(pattern).replace(r"\*", "[^/]*")).fullmatch


def embedded_image(text: str, origin: str, compressed: bool = False) -> np.ndarray:
    """The pixels of an image that is written as base64 text, and ``compressed`` with zlib before.

    Raises:
        DataError: it is none.
    """
    try:
        content = base64.b64decode(text, validate=True)
        if compressed:
            content = zlib.decompressobj().decompress(content, LARGEST)
        with open_image(io.BytesIO(content)) as image:
            return _pixels(image)
    except Exception as error:
        raise DataError(f"{origin}: its embedded image cannot be read ({error})") from None


def _pixels(image: Image.Image) -> np.ndarray:
    image.load()
    if image.mode == "F" and not (np.array(image, np.float64) % 1).any():  # ids that were saved as such numbers
        return np.array(image, np.int64)
    return np.array(image if image.mode in ("P", "L", "1", "RGBA") or image.mode[0] == "I" else image.convert("RGB"))
