"""FileIndex: the files below a folder by their names, and which image a label means."""

import functools
import itertools
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from detkit.data.file_names import plain
from detkit.data.formats.parts import grouped, purpose_of_folder
from detkit.data.image_files import IMAGE_SUFFIXES
from detkit.data.walk import walk
from detkit.registry import DataError
from detkit.utils.words import and_others


class FileIndex:
    """The names of all files below a folder, and the images that labels mean by a name. No file is opened.

    Args:
        path: the folder. Hidden files and folders are left out, and what a run of detkit has left in it.
        given: the file in it that the user named, if any.
    """

    def __init__(self, path: str | os.PathLike[str], given: str | None = None):
        self.path, self.given = Path(path), given
        self._missing: list[tuple[str, str]] = []

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
        return grouped(self.images, lambda name: PurePosixPath(name).stem)

    @functools.cached_property
    def _by_plain_stem(self) -> dict[str, list[str]]:
        return grouped(self.images, lambda name: plain(PurePosixPath(name).stem))

    @functools.cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.files)

    @functools.cached_property
    def _by_end(self) -> dict[str, list[str]]:
        return grouped(self.files, lambda name: "/".join(name.split("/")[-2:]))

    @functools.cached_property
    def _by_plain(self) -> dict[str, str]:
        return {plain(name): name for name in self.files}

    @functools.cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return grouped(self.images, lambda name: plain(PurePosixPath(name).name))

    def glob(self, pattern: str) -> list[str]:
        """The files whose path ends in the pattern, in which ``*`` stands for letters of one name."""
        return list(filter(_pattern(pattern), self.files))

    def below(self, folder: str) -> list[str]:
        """The files below a folder of it, sorted."""
        return self._sorted[slice(*self._range_below(folder))]

    def has_below(self, folder: str) -> bool:
        """Whether there are files below a folder of it; without listing them, which may be all for each image."""
        start, stop = self._range_below(folder)
        return start < stop

    def _range_below(self, folder: str) -> tuple[int, int]:
        start = "" if folder in ("", ".") else f"{folder.rstrip('/')}/"
        return bisect_left(self._sorted, start), bisect_left(self._sorted, f"{start}\U0010ffff")

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
        written = self.inner(without_query(name).replace("\\", "/").split("?d=")[-1])
        spellings = dict.fromkeys((written, unquote(written)))
        for start, spelt in itertools.product((*near, ""), spellings):
            path = os.path.normpath(os.path.join(start, spelt)).replace(os.sep, "/")
            if path in self.images:
                return path
        last = PurePosixPath(written).name
        found = self.images_named(last) or self.images_named(_UPLOAD.sub("", last))
        if not found and PurePosixPath(written).suffix.lower() not in IMAGE_SUFFIXES:  # CVAT's frames of videos
            found = self._of_stem(last)
        above = os.path.dirname(written)
        others, found = found, self.of_own_part(found, os.path.basename(above), *near, above)
        shared = [_shared_folders(path, written) for path in found]
        most = max(shared, default=0)
        found = [path for path, number in zip(found, shared) if number == most]
        below = tuple(f"{start}/" for start in near if start not in ("", "."))
        found = found if len(found) < 2 else [path for path in found if path.startswith(below)] or found
        if len(found) != 1:
            fix = "put it there, or take its label out" if self.images else "put the images there, or export with them"
            why = f"{len(found)} images have this name" if found else f"there is no such image below it; {fix}"
            why = f"'{others[0]}' is of another part" if others and not found else why
            raise DataError(f"{self.path}: {origin or 'a record'} names the image '{name[:200]}', but {why}")
        return found[0]

    def expected_image(self, name: str, near: str | Sequence[str] = "", origin: str = "") -> str:
        """``image``, but an error waits for ``raise_missing``, so that all that are missing are named together."""
        try:
            return self.image(name, near, origin)
        except DataError as error:
            self._missing.append((name, str(error)))
            return name

    def raise_missing(self) -> None:
        """Raises DataError where ``expected_image`` found none, once for all of them."""
        missing, self._missing = self._missing, []
        if missing:
            (_, words), *others = missing
            raise DataError(and_others(words, [name for name, _ in others]))

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
        found = self.of_own_part(self._of_stem(stem), os.path.dirname(beside))
        inside = [name for name in found if near in name.split("/")[:-1]] if near else found
        theirs = beside.split("/")[:-1]
        return max(inside or found, key=lambda name: len({*name.split("/")[:-1]}.intersection(theirs)), default=None)

    def _of_stem(self, stem: str) -> list[str]:
        """As ``images_named``, of a name without suffix."""
        return self._by_stem.get(stem) or self._by_plain_stem.get(plain(stem), [])

    def same(self, name: str) -> str | None:
        """The file of this path, also where it is written otherwise (case, Unicode form); None: there is none."""
        return name if name in self.files else self._by_plain.get(plain(name))


def without_query(text: str) -> str:
    """A text; the address of a file on the web without what follows the file, such as a signature."""
    return text.partition("?")[0] if "://" in text and "?d=" not in text else text


_UPLOAD = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the names of images that are uploaded."""


def _shared_folders(*paths: str) -> int:
    """How many folders two paths have in common, from the last up."""
    pairs = zip(*([plain(part) for part in PurePosixPath(path).parts[-2::-1]] for path in paths))
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


@functools.cache
def _pattern(pattern: str) -> Callable[[str], Any]:
    return re.compile("(?:.*/)?" + re.escape(pattern).replace(r"\*", "[^/]*")).fullmatch
