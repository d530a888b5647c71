"""Masks of annotations: polygons and run lengths, checked as they come in rows, and kept in flat arrays."""

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pycocotools.mask as coco_mask

from detkit.data.datasets.rows import FAR, Chunk
from detkit.data.flat import Ragged, offsets
from detkit.structures import CroppedMasks, Masks, PolygonMasks
from detkit.structures.rle import checked_rle, rle_counts

FIX = "correct it, or set invalid_masks: drop (leaves it out) or box (takes the box as its mask)"
BOX_FIX = "none where its box, which is taken, will do as its mask; invalid_masks: drop would leave it out"

InvalidMasks = Literal["error", "drop", "box"]


@dataclasses.dataclass(frozen=True)
class MaskColumn:
    """The masks of A annotations.

    Args:
        starts: ``(A + 1,)``; annotation a has the polygons ``starts[a]`` and following.
        polygons: x, y, x, y, ... of each polygon, float64.
        rles: the compressed counts of each annotation, uint8; empty where it has polygons.
    """

    starts: np.ndarray
    polygons: Ragged
    rles: Ragged

    def for_rows(self, rows: range, size: tuple[int, int], boxes: np.ndarray, crowd: np.ndarray) -> Masks:
        """The masks of some rows of an image of ``size`` (height, width): polygons if all are, else ``CroppedMasks``.

        A crowd, which is no target, does not turn an image's polygons into bitmaps: its box stands in for its RLE.
        """
        encoded = [len(self.rles[row]) > 0 for row in rows]
        if not any(rle and not crowd[row] for rle, row in zip(encoded, rows)):
            polygons = [[_rectangle(*boxes[r].tolist())] if e else self.polygons_of(r) for e, r in zip(encoded, rows)]
            return PolygonMasks(polygons, size)
        return CroppedMasks.of_rle((self._counts(row, size) for row in rows), size)

    def polygons_of(self, row: int) -> list[np.ndarray]:
        """The polygons of one annotation, each x, y, x, y, ..."""
        return [self.polygons[p] for p in range(self.starts[row], self.starts[row + 1])]

    def segmentation(self, row: int, size: tuple[int, int]) -> Any:
        """One annotation's mask as COCO writes it: polygons, or compressed RLE with counts as str."""
        counts = self.rles[row]
        if len(counts):
            return {"size": list(size), "counts": counts.tobytes().decode("ascii")}
        return [polygon.tolist() for polygon in self.polygons_of(row)]

    def extents(self, sizes: np.ndarray) -> np.ndarray:
        """``(A, 4)`` float64 xyxy around each mask; the image of annotation a is of ``sizes[a]``."""
        out = np.full((len(self.rles), 4), np.nan)
        nonempty = np.flatnonzero(np.diff(self.starts))
        for axis in range(2) if len(nonempty) else ():
            values, first = self.polygons.data[axis::2], self.polygons.offsets[self.starts[nonempty]] // 2
            out[nonempty, axis], out[nonempty, axis + 2] = (f.reduceat(values, first) for f in (np.minimum, np.maximum))
        runs = np.flatnonzero(self.rles.lengths)
        if len(runs):
            boxes = coco_mask.toBbox(
                [{"size": sizes[row].tolist(), "counts": self.rles[row].tobytes()} for row in runs.tolist()]
            )
            out[runs] = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        return out

    def _counts(self, row: int, size: tuple[int, int]) -> bytes:
        return self.rles[row].tobytes() or PolygonMasks([self.polygons_of(row)], size).rle()[0]["counts"].encode()

    @staticmethod
    def cat(pieces: Sequence[dict[str, Any]], order: np.ndarray) -> "MaskColumn":
        """The masks that ``read_masks`` put into some chunks' columns, in another order of all rows."""
        lengths, values, rles = (
            Ragged.cat([piece.pop(name) for piece in pieces], order) for name in ("lengths", "polygons", "rles")
        )
        return MaskColumn(lengths.offsets, Ragged(values.data, offsets(lengths.data)), rles)


def read_masks(chunk: Chunk, sizes: np.ndarray, invalid: InvalidMasks, tally: collections.Counter[str]) -> None:
    """Adds the columns ``lengths`` (of each polygon), ``polygons`` and ``rles``; reports masks that are none.

    Args:
        chunk: rows with the columns ``image`` and ``box``.
        sizes: ``(I, 2)`` height and width of all images.
        invalid: what happens to what has no mask; see ``Policy``.
        tally: what was left out or changed is counted there.
    """
    shapes = chunk.values("segmentation")
    encoded = np.array([type(shape) is dict for shape in shapes], bool)
    rles = [b""] * len(chunk)
    for i in np.flatnonzero(encoded).tolist():
        height, width = sizes[chunk.columns["image"][i]].tolist()
        try:
            rles[i] = checked_rle(shapes[i], (height, width))["counts"]
        except (ValueError, TypeError) as error:
            fix = "encode the mask again in its image's size, height first"
            chunk.report(np.arange(len(chunk)) == i, "malformed RLE", f": {error}", fix)
    parts = [_polygons_in(shape) for shape in shapes]
    polygons, counts = _flat(parts)
    owner = np.repeat(np.arange(len(chunk)), counts)
    far = np.append(0, np.cumsum(~(np.abs(polygons.data) < FAR)))
    malformed = (polygons.lengths % 2 == 1) | (np.diff(far[polygons.offsets]) > 0)
    num_short = np.bincount(owner[~malformed & (polygons.lengths < 6)], minlength=len(chunk))
    bad = np.bincount(owner[malformed], minlength=len(chunk)) > 0
    bare = ~encoded & ~bad & (counts == num_short)
    first = np.append(0, np.cumsum(counts))

    def malformed_polygon(i: int) -> str:
        number = int(np.flatnonzero(malformed[first[i] : first[i + 1]])[0])
        return f": segmentation holds {str(parts[i][number])[:60]}; expected a polygon as x, y, x, y, ..."

    def no_mask(i: int) -> str:
        return " has no polygon of at least 3 points" if counts[i] else " has no segmentation, but others have one"

    severity: Literal["error", "warning"] = "error" if invalid == "error" else "warning"
    chunk.report(bad, "malformed polygon", malformed_polygon, "write each polygon as numbers in pairs")
    words = " has a polygon of fewer than 3 points"
    chunk.report(num_short > 0, "polygon of too few points", words, FIX, severity)
    chunk.report(bare, "no mask", no_mask, BOX_FIX if invalid == "box" else FIX, severity)
    done = "given their box as one" if invalid == "box" else "left out"
    tally[f"objects without a mask {done}"] += int(bare.sum())
    tally["polygons of fewer than 3 points left out"] += int(num_short[~bare & ~bad].sum())
    changed = bad | bare | (num_short > 0)
    for i in np.flatnonzero(changed).tolist():
        x, y, width, height = chunk.columns["box"][i].tolist()
        rectangle = [_rectangle(x, y, x + width, y + height).tolist()] if invalid == "box" else []
        parts[i] = [] if bad[i] else rectangle if bare[i] else [part for part in parts[i] if len(part) >= 6]
    if changed.any():
        polygons, counts = _flat(parts)
    if invalid == "drop":
        chunk.sound &= ~bare
    starts = offsets(counts)
    chunk.columns["lengths"] = Ragged(polygons.lengths, starts)
    chunk.columns["polygons"] = Ragged(polygons.data, polygons.offsets[starts])
    chunk.columns["rles"] = Ragged.of_bytes(rles)


def box_around(shape: Any, size: Sequence[int]) -> list[float] | None:
    """x, y, width, height of what a segmentation covers; None where it is none.

    Args:
        shape: polygons or an RLE, as in a row.
        size: height and width of its image.
    """
    if type(shape) is dict:
        try:
            return coco_mask.toBbox(checked_rle(shape, (size[0], size[1]))).tolist()
        except (ValueError, TypeError):
            return None
    points = Ragged.of_lists(_polygons_in(shape))
    wrong = (points.lengths % 2).any() or not (np.abs(points.data) < FAR).all()
    if wrong or not (points.lengths >= 6).any():
        return None
    pairs = points.select(points.lengths >= 6).data.reshape(-1, 2)
    return [*pairs.min(0).tolist(), *np.ptp(pairs, 0).tolist()]


def read_areas(chunk: Chunk, sizes: np.ndarray) -> None:
    """Adds the column ``area``: what the rows say, or the area of the mask, or that of the box.

    Args:
        chunk: rows with the columns ``image`` and ``box``, and those of ``read_masks`` where there are masks.
        sizes: ``(I, 2)`` height and width of all images.
    """
    area = Ragged.of_lists([[value] for value in chunk.values("area")]).data  # NaN for what is no number
    for i in np.flatnonzero(~(np.isfinite(area) & (area >= 0))).tolist():
        area[i] = chunk.columns["box"][i, 2:].prod()
        if "rles" in chunk.columns and len(chunk.columns["rles"][i]):
            area[i] = rle_counts(chunk.columns["rles"][i].tobytes())[1::2].sum()
        elif "polygons" in chunk.columns:
            ends = np.cumsum(chunk.columns["lengths"][i])[:-1]
            polygons = np.split(chunk.columns["polygons"][i], ends)
            pairs = [polygon.reshape(-1, 2).T for polygon in polygons]
            area[i] = sum(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2 for x, y in pairs)
            height, width = sizes[chunk.columns["image"][i]].tolist()
            if all(((x >= 0) & (x <= width)).all() and ((y >= 0) & (y <= height)).all() for x, y in pairs):
                pixels = float(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))))
                if area[i] < 0.8 * pixels:  # an outline that crosses itself, whose pieces count against each other
                    area[i] = pixels
    chunk.columns["area"] = area


def _polygons_in(shape: Any) -> Sequence[Any]:
    """The polygons of a segmentation, whatever stands for them; points given in pairs are joined."""
    if type(shape) is list:
        parts = shape if shape and type(shape[0]) is list else [shape] if shape else ()
        if len(parts) > 2 and type(parts[0]) is list and _are_pairs(parts):
            return [list(itertools.chain.from_iterable(parts))]
        if parts and type(parts[0]) is list and parts[0] and type(parts[0][0]) is list:
            return [list(itertools.chain.from_iterable(p)) if _are_pairs(p) else p for p in parts]
        return parts
    return () if not shape or type(shape) is dict else [shape]


def _are_pairs(points: Any) -> bool:
    return type(points) is list and all(
        type(point) is list and len(point) == 2 and {*map(type, point)} <= {int, float} for point in points
    )


def _flat(parts: Sequence[Sequence[Any]]) -> tuple[Ragged, np.ndarray]:
    """All polygons, and how many each annotation has."""
    polygons = Ragged.of_lists(list(itertools.chain.from_iterable(parts)))
    return polygons, np.fromiter(map(len, parts), np.int64, len(parts))


def _rectangle(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([x1, y1, x2, y1, x2, y2, x1, y2], np.float64)
