"""ImageTable: the images of a dataset in flat arrays."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from detkit.data.datasets.rows import MISSING, ImageRow, as_row, is_text
from detkit.data.flat import Ragged
from detkit.data.issues import Issue, Report

MOST_PIXELS = 2**31 - 1
"""Of an image; pycocotools and most decoders count no further."""
NAMES = "surrogateescape"
"""How bytes of file names that are no UTF-8 stand in texts, in Python and in the JSON that it writes."""


@dataclasses.dataclass(frozen=True)
class ImageTable:
    """I images.

    Args:
        ids: their ids, ``(I,)`` int64, or strings as bytes.
        file_names: their paths as bytes.
        sizes: ``(I, 2)`` int64, height and width.
    """

    ids: np.ndarray | Ragged
    file_names: Ragged
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    def id(self, image: int) -> int | str:
        """The id of an image."""
        return int(self.ids[image]) if isinstance(self.ids, np.ndarray) else _text(self.ids, image)

    def file_name(self, image: int) -> str:
        """The path of an image."""
        return _text(self.file_names, image)

    def size(self, image: int) -> tuple[int, int]:
        """``(height, width)`` of an image."""
        height, width = self.sizes[image].tolist()
        return height, width

    def select(self, keep: np.ndarray) -> "ImageTable":
        """Only the images where ``keep`` (I bools) is true."""
        ids = self.ids[keep] if isinstance(self.ids, np.ndarray) else self.ids.select(keep)
        return ImageTable(ids, self.file_names.select(keep), self.sizes[keep])

    @staticmethod
    def from_rows(rows: Iterable[ImageRow | Mapping[str, Any]], place: str, report: Report) -> "ImageTable":
        """The images, in the order of the rows.

        Args:
            rows: the images.
            place: the file, for messages.
            report: takes each issue; where it returns, the image is left out.
        """
        found: dict[int | str, tuple[str, int, int]] = {}
        kind: type | None = None
        for i, entry in enumerate(rows):
            row = as_row(entry, ImageRow)
            wrong = _wrong(row) if isinstance(row, ImageRow) else f"is {str(row)[:40]!r}; expected a mapping"
            if wrong:
                label = f"image {row.id!r}" if type(getattr(row, "id", None)) in (int, str) else f"images[{i}]"
                report(Issue("malformed entry", place, label, f"{label} {wrong}"))
            elif row.id in found:
                what, fix = f"two images have the id {row.id!r}", "give each its own, also in the annotations' image_id"
                report(Issue("image id twice", place, f"image {row.id!r}", what, fix))
            elif kind not in (None, type(row.id)):
                what, fix = "some image ids are numbers and some are strings", "write all as numbers, or all as strings"
                report(Issue("image ids of two kinds", place, f"image {row.id!r}", what, fix))
            else:
                kind = type(row.id)
                found[row.id] = (row.file_name, int(row.height), int(row.width))
        names = Ragged.of_bytes([_bytes(name) for name, *_ in found.values()])
        ids = Ragged.of_bytes([_bytes(str(id_)) for id_ in found]) if kind is str else np.array(list(found), np.int64)
        sizes = np.array([size for _, *size in found.values()], np.int64).reshape(-1, 2)
        return ImageTable(ids, names, sizes)


def _wrong(row: ImageRow) -> str:
    """What is wrong with an image; empty for nothing."""
    needed = ImageRow.__struct_fields__
    missing = [name for name in needed if getattr(row, name) is MISSING]
    if missing:
        return f"has no '{missing[0]}'; an image needs {', '.join(needed)}"
    if not is_text(row.id, NAMES) and (type(row.id) is not int or abs(row.id) >= 2**63):
        return f"has the id {str(row.id)[:40]!r}; expected a string, or a whole number of at most 64 bits"
    if not is_text(row.file_name, NAMES) or not (_is_side(row.height) and _is_side(row.width)):
        found = f"file_name {row.file_name!r:.60}, height {row.height!r:.20} and width {row.width!r:.20}"
        return f"has {found}; expected a name and whole numbers above 0"
    if row.height * row.width > MOST_PIXELS:
        size = f"{row.width:g} x {row.height:g} pixels (width x height)"
        return f"is of {size}, and at most {MOST_PIXELS} can be read; correct its size, or cut the image into tiles"
    return ""


def _is_side(value: Any) -> bool:
    return type(value) in (int, float) and 1 <= value < 2**31 and value % 1 == 0


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", NAMES)


def _text(rows: Ragged, row: int) -> str:
    return rows[row].tobytes().decode("utf-8", NAMES)
