"""Rows in COCO's words, as a file or a reader of one's own gives them, and some thousands of them as columns."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, cast

import msgspec
import numpy as np
import pycocotools.mask as coco_mask

from detkit.data.flat import Ragged
from detkit.data.issues import Issue

MISSING = msgspec.UNSET
ORIGIN = "origin of the row"
"""The key of a mapping that says ``Row.origin``; not the word itself, which files may use."""
FAR = 1e6
"""Pixels; a coordinate beyond is a mistake, and rasterising it would take the machine's memory."""
MIN_SIDE = 1e-5
"""Pixels. A thinner box has no area in float32, and its logarithm would end the training."""


class ImageRow(msgspec.Struct, gc=False):
    """One image; a mapping with these keys will do as well.

    Args:
        id: its id, a whole number or a string; all of a dataset are of one kind.
        file_name: its path, below the dataset's folder of images if it has one.
        height: pixels.
        width: pixels.
    """

    id: Any = MISSING
    file_name: Any = MISSING
    height: Any = MISSING
    width: Any = MISSING


class Row(msgspec.Struct, gc=False):
    """One annotation; a mapping with these keys will do as well, and may hold tuples and numpy's numbers and arrays.

    Args:
        id: its id, a whole number.
        image_id: the id of its image.
        category_id: the id of its category.
        bbox: x, y, width, height in pixels.
        area: square pixels; what is no finite number from 0 on stands for the area of the mask, or of the box
            without one.
        iscrowd: true for a region of many objects.
        segmentation: polygons ``[[x, y, x, y, ...], ...]``, one polygon, an RLE of either form, or an ``(H, W)`` array
            of booleans.
        keypoints: x, y, visibility (0: not labelled, 1: hidden, 2: visible) of each, x and y counting whole pixels.
        origin: where it stands, for messages: ``"labels/a.txt, line 3"``; None: its id says it. In a mapping its key is
            ``ORIGIN``.
    """

    id: Any = MISSING
    image_id: Any = MISSING
    category_id: Any = MISSING
    bbox: Any = MISSING
    area: Any = None
    iscrowd: Any = 0
    segmentation: Any = None
    keypoints: Any = None
    origin: Any = msgspec.field(default=None, name=ORIGIN)


def row_type(fields: Iterable[str]) -> type[Row]:
    """A ``Row`` that has fields of one's own as well."""
    own: list[Any] = [(name, Any, MISSING) for name in fields]
    return cast(type[Row], msgspec.defstruct("OwnRow", own, bases=(Row,), gc=False)) if own else Row


def as_row(entry: Any, kind: type[msgspec.Struct]) -> Any:
    """A row made of a mapping; a row itself, and anything that is none, as it is."""
    if not isinstance(entry, Mapping):
        return entry
    fields = {key: _without_numpy(entry[key]) for key in kind.__struct_encode_fields__ if key in entry}
    mask = entry.get("segmentation")
    if isinstance(mask, np.ndarray) and mask.ndim == 2 and mask.dtype == bool:
        fields["segmentation"] = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return msgspec.convert(fields, kind)


def is_text(value: Any, errors: str = "strict") -> bool:
    """Whether it is a text that can be written: half a surrogate pair, which JSON may hold, cannot."""
    try:
        return type(value) is str and value.encode("utf-8", errors) != b""
    except UnicodeEncodeError:
        return False


def _without_numpy(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if not isinstance(value, list | tuple) or {*map(type, value)} <= {int, float}:
        return list(value) if isinstance(value, tuple) else value
    return [_without_numpy(v) for v in value]


class Chunk:
    """Some rows on their way to columns.

    Args:
        rows: the rows; what is none is reported and left out.
        start: the first one's number in the file.
        place: the file, for messages.

    Attributes:
        columns: name -> a value of each row, an array or ``Ragged``.
        sound: which have no error so far; the others are kept until all that is wrong with them has been said.
        issues: what is wrong with them, with the number of the row.
    """

    def __init__(self, rows: Sequence[Any], start: int, place: str):
        self.place, self.issues = place, list[tuple[int, Issue]]()
        self.rows, self.index = rows, np.arange(start, start + len(rows))
        self.columns: dict[str, Any] = {}
        self.sound = np.ones(len(rows), bool)
        right = {kind for kind in {*map(type, rows)} if issubclass(kind, Row)}
        for i in [i for i, row in enumerate(rows) if type(row) not in right]:
            label = f"annotations[{start + i}]"
            what = f"{label} is {str(rows[i])[:40]!r}; expected a mapping"
            self.issues.append((start + i, Issue("malformed entry", place, label, what)))
        self.select(np.array([type(row) in right for row in rows], bool))

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, keep: np.ndarray) -> None:
        """Leaves the other rows out."""
        if not keep.all():
            self.rows, self.index = [row for row, kept in zip(self.rows, keep) if kept], self.index[keep]
            self.sound = self.sound[keep]
            self.columns = {
                name: column.select(keep) if isinstance(column, Ragged) else column[keep]
                for name, column in self.columns.items()
            }

    def values(self, name: str) -> list[Any]:
        """A field of all rows."""
        return list(map(attrgetter(name), self.rows))

    def values_of(self, name: str, kinds: set[type]) -> tuple[list[Any], np.ndarray]:
        """A field of all rows, None where it is of another type, and where it is not; reports those that lack it."""
        values = self.values(name)
        if {*map(type, values)} <= kinds:
            return values, np.ones(len(values), bool)
        right = np.array([type(value) in kinds for value in values])
        expected = " or ".join(sorted(kind.__name__ for kind in kinds - {type(None)}))

        def words(i: int) -> str:
            if values[i] is MISSING:
                return f" has no '{name}'; an annotation needs id, image_id, category_id and bbox"
            return f": {name} is {str(values[i])[:40]!r}; expected {expected}"

        self.report(~right, "malformed entry", words)
        return [value if ok else None for value, ok in zip(values, right)], right

    def report(
        self,
        where: np.ndarray,
        kind: str,
        words: str | Callable[[int], str],
        fix: str = "",
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        """An ``Issue`` for each row where ``where`` is true; ``words`` follow its name, or are made of its number."""
        if severity == "error":
            self.sound &= ~where
        for i in np.flatnonzero(where).tolist():
            id_, number = self.rows[i].id, int(self.index[i])
            label = f"annotation {id_}" if type(id_) is int else f"annotations[{number}]"
            place, what = self.place, words if isinstance(words, str) else words(i)
            if type(self.rows[i].origin) is str:
                place, label, what = self.rows[i].origin, "", what.removeprefix(":").strip()
            self.issues.append((number, Issue(kind, place, label, label + what, fix, severity, self.place)))
