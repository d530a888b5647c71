"""SegmentFiles: panoptic maps of a dataset's images, as image files of segment ids."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import torch

from detkit.data.flat import Ragged, offsets
from detkit.data.formats.files import Folder
from detkit.data.paths import leaves_folder
from detkit.registry import DataError
from detkit.structures import Panoptic, Segment

THINGS = "things"
"""The name of the first class of a semantic map: all things together."""
ROW = np.dtype([("id", np.int64), ("class_index", np.int16), ("is_thing", bool), ("crowd", bool)])


def segment_ids(colours: np.ndarray) -> np.ndarray:
    """``(H, W)`` ids of segments, R + 256 G + 65536 B of ``colours`` (H, W, 3) int64."""
    return colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]


class _Segment(msgspec.Struct, gc=False):
    id: int
    category_id: int
    iscrowd: Literal[0, 1] = 0


class SegmentedImage(msgspec.Struct, gc=False):
    """An image's entry in COCO panoptic's JSON, be it of labels or of results."""

    image_id: int | str
    file_name: str
    segments_info: list[_Segment]


class LabelledSegment(NamedTuple):
    """A segment: its id in the file, the name of its class, whether it is a thing, and whether many of them."""

    id: int
    label: str
    is_thing: bool
    crowd: bool = False


class SegmentFile(NamedTuple):
    """The file of an image's segments, below the data's folder, and what they are; an empty path: nothing is known."""

    path: str
    segments: Sequence[LabelledSegment]


@dataclasses.dataclass(frozen=True)
class SegmentFiles:
    """The panoptic maps of I images, in flat arrays.

    Args:
        root: the folder of the files.
        paths: the file of each image.
        rows: the segments of each image, ``ROW``.
        stuff_names: the classes of stuff, in their order.
    """

    root: str
    paths: Ragged
    rows: Ragged
    stuff_names: tuple[str, ...]

    @staticmethod
    def of(
        root: str, files: Iterable[SegmentFile], class_names: Iterable[str], stuff_names: Iterable[str]
    ) -> "SegmentFiles":
        """Of a file for each image. Segments of things that are none of ``class_names`` are left out.

        Raises:
            DataError: a file's name leads out of ``root``; a stranger's JSON must not choose what else is read.
        """
        stuff_names = tuple(stuff_names)
        known = {(True, name): k for k, name in enumerate(class_names)}
        known |= {(False, name): k for k, name in enumerate(stuff_names, 1)}  # 0 is all things together
        paths, counts, rows = list[bytes](), list[int](), list[tuple[int, int, bool, bool]]()
        for path, segments in files:
            if leaves_folder(root, path):
                raise DataError(f"{root}: the file name '{path[:200]}' of a map of segments leads out of this folder")
            kept = [(s.id, known[s[2], s.label], s.is_thing, s.crowd) for s in segments if (s[2], s.label) in known]
            paths.append(path.encode("utf-8", "surrogateescape"))
            counts.append(len(kept))
            rows += kept
        return SegmentFiles(root, Ragged.of_bytes(paths), Ragged(np.array(rows, ROW), offsets(counts)), stuff_names)

    @property
    def semantic_names(self) -> tuple[str, ...]:
        """The classes of the semantic map."""
        return (THINGS, *self.stuff_names)

    def panoptic_map(self, index: int, size: tuple[int, int]) -> Panoptic:
        """The map of an image of ``(height, width)``; its segments are numbered from 1.

        Raises:
            DataError: the file cannot be read, or is of another size.
        """
        path = self.paths[index].tobytes().decode("utf-8", "surrogateescape")
        if not path:
            return Panoptic(torch.zeros(size, dtype=torch.int64))
        values, rows = Folder(self.root).mask(path).astype(np.int64), self.rows[index]
        if values.shape[:2] != size:
            raise DataError(
                f"{Path(self.root, path)}: its map of segments is of {values.shape[1]} x {values.shape[0]} pixels, the "
                f"image of {size[1]} x {size[0]}"
            )
        if values.ndim == 3:
            values = segment_ids(values)
        ids = np.zeros(size, np.int64)
        if len(rows):
            order = np.argsort(rows["id"])
            place = order[np.searchsorted(rows["id"], values, sorter=order).clip(max=len(rows) - 1)]
            ids = np.where(rows["id"][place] == values, place + 1, 0)
        segments = (
            Segment(n, int(row["class_index"]), bool(row["is_thing"]), crowd=bool(row["crowd"]))
            for n, row in enumerate(rows, 1)
        )
        return Panoptic(torch.from_numpy(ids), tuple(segments))
