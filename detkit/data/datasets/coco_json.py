"""A COCO instances JSON: its parts, checked. What is wrong names the file and the entry."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detkit.data.datasets.json_entries import split_coco
from detkit.data.faults import Fault, Report, stop_at
from detkit.registry import DataError, did_you_mean

KEYS = ("images", "annotations", "categories")


@dataclasses.dataclass(frozen=True)
class ImageEntry:
    """One image of the file.

    Args:
        id: its id.
        file_name: its path below the folder of images.
        size: ``(height, width)``.
    """

    id: int | str
    file_name: str
    size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class CocoFile:
    """The parts of a COCO instances file.

    Args:
        path: the file, for messages.
        content: what stands in it.
        report: takes each fault. The one that is used for training raises; where it returns, what is wrong is left out.
    """

    path: str
    content: Mapping[str, Any]
    report: Report = stop_at

    @staticmethod
    def load(path: str, report: Report = stop_at) -> "CocoFile":
        """Reads a file. Raises DataError where it is not JSON, or not COCO."""
        try:
            text = Path(path).read_bytes()
            parts = split_coco(text)
            if parts is not None:
                return CocoFile(path, parts, report)
            content = json.loads(text.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: is not JSON ({error}); expected a COCO instances file") from None
        missing = [k for k in KEYS if not isinstance(content, Mapping) or not isinstance(content.get(k), list)]
        if missing:
            keys = ", ".join(map(repr, content)) if isinstance(content, Mapping) else ""
            raise DataError(
                f"{path}: is not a COCO instances file: it has {f'keys {keys}' if keys else 'no keys'}, but no list "
                f"under {', '.join(map(repr, missing))}"
            )
        file_ = CocoFile(path, content, report)
        for key in KEYS:
            for i, entry in enumerate(content[key]):
                if not isinstance(entry, Mapping):
                    words = f"{key}[{i}] is {str(entry)[:40]!r}; expected a mapping"
                    file_.complain("malformed entry", f"{key}[{i}]", words)
                    content[key][i] = {}  # where that returns, its fields are missing, too
        return file_

    def error(self, words: str) -> DataError:
        """A DataError that names the file."""
        return DataError(f"{self.path}: {words}")

    def complain(self, kind: str, entry: str, words: str, *, serious: bool = True) -> None:
        """Reports a fault of the file; see ``Fault``."""
        self.report(Fault(kind, self.path, entry, words, serious))

    def field(self, key: str, index: int, name: str, kinds: tuple[type, ...]) -> Any:
        """``content[key][index][name]``; None after complaining that it is missing or of another kind."""
        entry = self.content[key][index]
        label = f"{key}[{index}]" if "id" not in entry or name == "id" else f"{key[:-1]} {entry['id']!r}"
        if name not in entry:
            words = f"{label} has no '{name}'; it has {', '.join(map(repr, entry)) or 'nothing'}"
            return self.complain("malformed entry", label, words)
        value = entry[name]
        large = isinstance(value, int) and abs(value) >= 2**63
        if not isinstance(value, kinds) or isinstance(value, bool) or large:
            expected = " or ".join(kind.__name__ for kind in kinds) + (" of at most 64 bits" if large else "")
            words = f"{label}: {name} is {str(value)[:40]!r}; expected {expected}"
            return self.complain("malformed entry", label, words)
        return value

    def classes(self, class_names: Sequence[str] | None) -> tuple[tuple[str, ...], dict[int, int]]:
        """The class names, and category id -> class index, -1 for a category that is not wanted.

        Args:
            class_names: the wanted ones, in order; None for all, in the order of the ids.

        Raises:
            DataError: no categories, a wanted name that is not there, an id or name given twice.
        """
        names = self._category_names()
        if not names:
            raise self.error("'categories' is empty; a detector needs at least one class")
        if class_names is None:
            class_names = list(dict.fromkeys(names[i] for i in sorted(names)))
        if not class_names or len(set(class_names)) < len(class_names):
            raise self.error(f"class_names: expected different names, got {list(class_names)}")
        for name in class_names:
            if name not in names.values():
                known = list(names.values())
                raise self.error(
                    f"class_names: there is no category '{name}'.{did_you_mean(name, known)} It has "
                    f"{', '.join(known[:20])}{' ...' if len(known) > 20 else ''}"
                )
        index = {name: i for i, name in enumerate(class_names)}
        return tuple(class_names), {i: index.get(name, -1) for i, name in names.items()}

    def _category_names(self) -> dict[int, str]:
        """Category id -> name."""
        names: dict[int, str] = {}
        for i in range(len(self.content["categories"])):
            id_, name = self.field("categories", i, "id", (int,)), self.field("categories", i, "name", (str,))
            if id_ is None or name is None:
                continue
            if id_ in names:
                words = f"two categories have the id {id_}; give each its own"
                self.complain("category id twice", f"category {id_}", words)
                continue
            if name in names.values():
                words = f"two categories are named '{name}'; give each its own name"
                self.complain("category name twice", f"category {id_}", words)
            names[id_] = name
        return names

    def images(self) -> list[ImageEntry]:
        """The images, in the order of the file. Raises DataError for a missing field or an id given twice."""
        out: dict[int | str, ImageEntry] = {}
        for i, entry in enumerate(self.content["images"]):
            plain = _plain_image(entry)
            if plain is not None and plain.id not in out and (not out or isinstance(next(iter(out)), int)):
                out[plain.id] = plain
                continue
            image_id = self.field("images", i, "id", (int, str))
            name = self.field("images", i, "file_name", (str,))
            height, width = (self.field("images", i, side, (int, float)) for side in ("height", "width"))
            if image_id is None or name is None or height is None or width is None:
                continue
            label = f"image {image_id!r}"
            if not name or not (height >= 1 and width >= 1) or height % 1 or width % 1:
                found = f"file_name {name!r}, height {height} and width {width}"
                words = f"{label} has {found}; expected a name and whole numbers above 0"
                self.complain("malformed entry", label, words)
            elif image_id in out:
                words = f"two images have the id {image_id!r}; give each its own, also in the annotations' image_id"
                self.complain("image id twice", label, words)
            elif out and type(image_id) is not type(next(iter(out))):
                words = "some image ids are numbers and some are strings; expected one kind"
                self.complain("image ids of two kinds", label, words)
            else:
                out[image_id] = ImageEntry(image_id, name, (int(height), int(width)))
        return list(out.values())


def _plain_image(entry: Mapping[str, Any]) -> ImageEntry | None:
    """An image as nearly all are; None for one that is to be looked at field by field."""
    id_, name, height, width = (entry.get(key) for key in ("id", "file_name", "height", "width"))
    if type(id_) is not int or type(name) is not str or type(height) is not int or type(width) is not int:
        return None
    sound = name and min(height, width) >= 1 and max(height, width, abs(id_)) < 2**63
    return ImageEntry(id_, name, (height, width)) if sound else None
