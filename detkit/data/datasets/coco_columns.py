"""Annotations as columns: such as most of a COCO file's are, checked and laid flat some thousands at a time."""

import array
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from detkit.data.flat import Ragged, offsets

FAR = 1e6
"""Pixels; a coordinate beyond is a mistake, and rasterising it would take the machine's memory."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """A annotations with P polygons of V numbers together.

    Args:
        index: ``(A,)`` which annotation of the file.
        id, image, class_index: ``(A,)`` int64.
        crowd: ``(A,)`` bool.
        box: ``(A, 4)`` float64 x, y, width, height.
        area: ``(A,)`` float64.
        parts: ``(A,)`` how many polygons each has.
        lengths: ``(P,)`` how many numbers each polygon has.
        values: ``(V,)`` float64.
        rles: the compressed counts of those A that have some, by their place in the columns.
    """

    index: np.ndarray
    id: np.ndarray
    image: np.ndarray
    class_index: np.ndarray
    crowd: np.ndarray
    box: np.ndarray
    area: np.ndarray
    parts: np.ndarray
    lengths: np.ndarray
    values: np.ndarray
    rles: Mapping[int, bytes] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.id)

    def values_of(self) -> np.ndarray:
        """``(A,)`` how many numbers each annotation has."""
        ends = np.append(0, np.cumsum(self.lengths))[np.append(0, np.cumsum(self.parts))]
        return np.diff(ends)

    def select(self, keep: np.ndarray) -> "Columns":
        """Only the annotations where ``keep`` (A bools) is true."""
        if keep.all():
            return self
        of_part, places = np.repeat(keep, self.parts), np.cumsum(keep) - 1
        scalars: dict[str, Any] = {name: getattr(self, name)[keep] for name in SCALARS}
        return Columns(
            **scalars,
            lengths=self.lengths[of_part],
            values=self.values[np.repeat(of_part, self.lengths)],
            rles={int(places[at]): rle for at, rle in self.rles.items() if keep[at]},
        )


SCALARS = ("index", "id", "image", "class_index", "crowd", "box", "area", "parts")


class PlainAnnotation(msgspec.Struct, gc=False):
    """An annotation whose fields are of the expected types; COCO's names."""

    id: int
    image_id: int | str
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: Any = 0
    segmentation: list[list[float]] | dict[str, Any] | None = None


def plain_columns(
    entries: Sequence[PlainAnnotation],
    start: int,
    image_index: Mapping[int | str, int],
    classes: Mapping[int, int],
    has_masks: bool,
) -> tuple[Columns, np.ndarray] | None:
    """The columns of annotations as they stand in the file, and which of them are plain.

    Plain is an annotation of a known image and category, whose shape is polygons, each of 3 points or more. None where
    that cannot be told of all together.

    Args:
        entries: the annotations.
        start: the first one's place in the file.
        image_index: image id -> its index.
        classes: category id -> class index.
        has_masks: whether annotations should have a shape.
    """
    boxes = [entry.bbox for entry in entries]
    if {*map(len, boxes)} != {4}:
        return None
    shapes = [entry.segmentation for entry in entries] if has_masks else []
    plain = np.array([_is_polygons(shape) for shape in shapes] if has_masks else [True] * len(entries))
    polygons: list[Any] = [shape if sound else () for shape, sound in zip(shapes, plain.tolist())]
    try:
        columns = Columns(
            index=np.arange(start, start + len(entries)),
            id=np.array([entry.id for entry in entries], np.int64),
            image=np.array([image_index[entry.image_id] for entry in entries], np.int64),
            class_index=np.array([classes[entry.category_id] for entry in entries], np.int64),
            crowd=np.array([bool(entry.iscrowd) for entry in entries]),
            box=_numbers(boxes).reshape(-1, 4),
            area=np.array([entry.area for entry in entries], np.float64),
            parts=np.array([len(p) for p in polygons] if has_masks else [0] * len(entries), np.int64),
            lengths=np.fromiter(map(len, chain.from_iterable(polygons)), np.int64),
            values=_numbers(chain.from_iterable(polygons)),
        )
    except (KeyError, OverflowError):
        return None
    return columns, plain & _sound(columns)


def _is_polygons(shape: Any) -> bool:
    return type(shape) is list and len(shape) > 0 and min(map(len, shape)) >= 6


def _numbers(lists: Iterable[list[float]]) -> np.ndarray:
    """All of the lists' numbers, float64. An ``array`` takes a list three times as fast as numpy does."""
    numbers = array.array("d")
    for one in lists:
        numbers.fromlist(one)
    return np.array(numbers, np.float64)


def _sound(columns: Columns) -> np.ndarray:
    """Which annotations have an area and whose polygons are pairs of numbers within reach."""
    far = np.append(0, np.cumsum(~(np.abs(columns.values) < FAR)))
    ends = np.append(0, np.cumsum(columns.values_of()))
    odd = np.append(0, np.cumsum(columns.lengths % 2))
    rows = np.append(0, np.cumsum(columns.parts))
    bad = (np.diff(far[ends]) > 0) | (np.diff(odd[rows]) > 0)
    return ~bad & np.isfinite(columns.area)


def laid_flat(pieces: list[Columns]) -> tuple[Columns, np.ndarray, Ragged, Ragged]:
    """All annotations, ordered by image and then as in the file.

    Args:
        pieces: the columns; the list is emptied, so that the numbers are not held twice.

    Returns:
        The columns without polygons, where each annotation's polygons start ``(A + 1,)``, the polygons, the RLEs.
    """
    scalars: dict[str, Any] = {name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in SCALARS}
    order = np.lexsort((scalars["index"], scalars["image"]))
    counts = np.concatenate([piece.values_of() for piece in pieces])
    part_start, value_start = (_starts(n, order) for n in (scalars["parts"], counts))
    lengths = np.empty(int(scalars["parts"].sum()), np.int64)
    values = np.empty(int(counts.sum()), np.float64)
    runs: dict[int, bytes] = {}
    row = 0
    while pieces:
        piece = pieces.pop(0)
        rows = slice(row, row + len(piece))
        lengths[_spread(part_start[rows], piece.parts)] = piece.lengths
        values[_spread(value_start[rows], counts[rows])] = piece.values
        runs |= {row + place: rle for place, rle in piece.rles.items()}
        row += len(piece)
    none = np.zeros(0, np.int64)
    columns = Columns(**{name: column[order] for name, column in scalars.items()}, lengths=none, values=none)
    places = np.argsort(order)
    rles = sorted((int(places[at]), rle) for at, rle in runs.items())
    sizes = np.zeros(len(order), np.int64)
    sizes[[at for at, _ in rles]] = [len(rle) for _, rle in rles]
    text = np.frombuffer(b"".join(rle for _, rle in rles), np.uint8)
    return columns, offsets(columns.parts), Ragged(values, offsets(lengths)), Ragged(text, offsets(sizes))


def _starts(sizes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Where rows of these sizes begin once they have been put in that order, given in the order that they have now."""
    starts = np.empty(len(sizes), np.int64)
    starts[order] = np.append(0, np.cumsum(sizes[order]))[:-1]
    return starts


def _spread(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Every index of ranges that begin there and are so long."""
    spread = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
    spread += np.arange(len(spread))
    return spread
