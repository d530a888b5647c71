"""yolo_parts: the images of each part that a ``data.yaml`` or ``obj.data`` names, in any of their ways of paths."""

import itertools
import logging
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from detkit.data.formats.content import lines_of
from detkit.data.formats.files import Folder
from detkit.data.formats.parts import SPLITS
from detkit.registry import DataError

logger = logging.getLogger(__name__)
PARTS = tuple(itertools.chain.from_iterable(SPLITS))


def yolo_parts(folder: Folder, name: str, entries: Mapping[str, Any]) -> dict[str, list[str]]:
    """The images of each part: of the usual ones, and of other keys that name images which are in none of them.

    Args:
        folder: the data's folder.
        name: the file that describes the data.
        entries: key -> value of it.

    Raises:
        DataError: the images to train on are not there.
    """
    found: dict[str, list[str]] = {}
    for part in PARTS:
        try:
            found |= {part: _images(folder, name, entries, part)} if entries.get(part) else {}
        except DataError as error:  # Roboflow names a test part that may not be there
            if part in SPLITS[0]:
                raise
            logger.warning("%s; the part is left out", error)
    taken, others = {image for images in found.values() for image in images}, dict[str, list[str]]()
    for key, value in entries.items():
        if isinstance(key, str) and isinstance(value, str) and key not in (*PARTS, "path", "names"):
            try:
                images = _images(folder, name, entries, key)
            except DataError:  # it says something else
                continue
            if images and taken.isdisjoint(images):
                others[key], taken = images, taken.union(images)
    return found | others if found or len(others) > 1 else {}


def listed(entry: Any) -> list[str]:
    """What stands for a part: one path, or several."""
    return [str(path) for path in (entry if isinstance(entry, list) else [entry]) if path]


class Place(NamedTuple):
    """Where an entry leads in the folder, and which leading folders of it are not there and left out."""

    path: str
    missing: tuple[str, ...]

    def is_doubtful(self, other: "Place") -> bool:
        """Whether it leads to another entry's files only because it lost folders that the other did not lose."""
        own, theirs = ("" if place.path == "." else f"{place.path}/" for place in (self, other))
        meet = own.startswith(theirs) or theirs.startswith(own)
        return meet and self.missing != other.missing[: len(self.missing)]


def inside(folder: Folder, bases: tuple[str, ...], entry: str) -> Place | None:
    """The file or folder that an entry means. Leading folders that are not there are forgiven, as are ``../``."""
    for start in (*bases, ""):
        path = PurePosixPath(start.replace("\\", "/"), folder.inner(entry.replace("\\", "/")))
        parts = [part for part in path.parts if part not in ("..", "/")]
        for first in range(len(parts)):
            name = "/".join(parts[first:])
            if name in folder.files or folder.has_below(name):
                return Place(name, tuple(parts[:first]))
        if not parts:
            return Place(".", ())
    return None


def _images(folder: Folder, name: str, entries: Mapping[str, Any], part: str) -> list[str]:
    """The images of a part, of which an entry names folders, lists of images, or images."""
    path = str(entries.get("path") or "")
    path = f"datasets/{path}" if path and folder.has_below(f"datasets/{path}") else path  # where Ultralytics looks
    bases = (path, str(PurePosixPath(name).parent))
    others = [inside(folder, bases, entry) for key in PARTS if key != part for entry in listed(entries.get(key))]
    out: list[str] = []
    for entry in listed(entries[part]):
        where = inside(folder, bases, entry)
        if where is None or any(other and where.is_doubtful(other) for other in others):
            raise DataError(f"{folder.path / name}: {part}: there is no '{entry}' in this folder")
        if where.path in folder.files and where.path.endswith(".txt"):
            near = str(PurePosixPath(where.path).parent)
            for number, line in lines_of(folder.text(where.path)):
                out.append(folder.expected_image(line, near, f"{where.path}, line {number}"))
        elif where.path in folder.images:
            out.append(where.path)
        else:
            out += [image for image in folder.below(where.path) if image in folder.images]
    folder.raise_missing()
    return out
