"""Annotations as columns: such as most of a COCO file's are, checked and laid flat some thousands at a time."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

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


def plain_columns(
    entries: Sequence[Mapping[str, Any]],
    start: int,
    image_index: Mapping[int | str, int],
    classes: Mapping[int, int],
    has_masks: bool,
) -> tuple[Columns, np.ndarray] | None:
    """The columns of annotations as they stand in the file, and which of them are plain.

    Plain is an annotation of the expected types, of a known image and category, whose shape is polygons, each of 3
    points or more. None where that cannot be told of all together.

    Args:
        entries: the annotations.
        start: the first one's place in the file.
        image_index: image id -> its index.
        classes: category id -> class index.
        has_masks: whether annotations should have a shape.
    """
    try:
        ids, images, categories, boxes, areas = (
            [entry[name] for entry in entries] for name in ("id", "image_id", "category_id", "bbox", "area")
        )
        crowd = [bool(entry.get("iscrowd", 0)) for entry in entries]
        shapes = [entry.get("segmentation") for entry in entries] if has_masks else []
        if {*map(type, ids), *map(type, categories)} != {int} or not {*map(type, images)} <= {int, str}:
            return None
        if {*map(type, boxes)} != {list} or {*map(len, boxes)} != {4}:
            return None
        if not {*map(type, chain.from_iterable(boxes)), *map(type, areas)} <= {int, float}:
            return None
        plain = np.array([_is_polygons(shape) for shape in shapes] if has_masks else [True] * len(ids))
        polygons: list[Any] = [shape if sound else () for shape, sound in zip(shapes, plain.tolist())]
        lengths = np.fromiter(map(len, chain.from_iterable(polygons)), np.int64)
        numbers = chain.from_iterable(chain.from_iterable(polygons))
        columns = Columns(
            index=np.arange(start, start + len(ids)),
            id=np.array(ids, np.int64),
            image=np.array([image_index[image] for image in images], np.int64),
            class_index=np.array([classes[category] for category in categories], np.int64),
            crowd=np.array(crowd),
            box=np.array(boxes, np.float64),
            area=np.array(areas, np.float64),
            parts=np.array([len(p) for p in polygons] if has_masks else [0] * len(ids), np.int64),
            lengths=lengths,
            values=np.fromiter(numbers, np.float64, int(lengths.sum())),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return columns, plain & _sound(columns)


def _is_polygons(shape: Any) -> bool:
    return type(shape) is list and len(shape) > 0 and all(type(part) is list and len(part) >= 6 for part in shape)


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
    return np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
