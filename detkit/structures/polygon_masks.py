"""PolygonMasks: masks as lists of polygons."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import torch
from torch import Tensor

from detkit.structures.bit_masks import BitMasks
from detkit.structures.boxes import Boxes, as_int
from detkit.structures.cropped_masks import CroppedMasks
from detkit.structures.mask_crops import CropMethod, check_pairs
from detkit.structures.transforms import Region, Transform
from detkit.structures.upright import CropAndPad

Polygons = list[np.ndarray]
"""The polygons of one object, each (P, 2) float64 points (x, y)."""
LONGEST = 1e6
"""Pixels of an outline that are rasterised as they are: 100 MB. What is longer is cut to the image first."""


class PolygonMasks:
    """N objects of one image, each the union of some polygons; implements ``Masks``.

    It stays on the CPU: ``to`` gives itself. Indexing rows by a slice, an index tensor or array, or a bool mask
    gives ``PolygonMasks``; an int gives that object's polygons. It is not edited.

    Args:
        polygons: for each object its polygons, each of at least 3 points, as ``x, y, x, y, ...`` or ``(P, 2)``, in
            pixels. An object without polygons is an empty mask.
        image_size: ``(height, width)``.

    Raises:
        ValueError: a polygon has fewer than 3 points or an odd number of coordinates.
    """

    def __init__(self, polygons: Sequence[Sequence[Any]], image_size: tuple[int, int]):
        self.polygons: list[Polygons] = [[_points(p) for p in parts] for parts in polygons]
        self.image_size = (int(image_size[0]), int(image_size[1]))

    def __len__(self) -> int:
        return len(self.polygons)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item := as_int(item), int):
            return self.polygons[item]
        rows = item.cpu().numpy() if isinstance(item, Tensor) else item
        rows = np.arange(len(self))[rows]
        return self._of([self.polygons[i] for i in rows])

    def __repr__(self) -> str:
        return f"PolygonMasks(num={len(self)}, image_size={self.image_size})"

    def _of(self, polygons: list[Polygons], image_size: tuple[int, int] | None = None) -> "PolygonMasks":
        made = PolygonMasks.__new__(PolygonMasks)  # the points are sound already
        made.polygons, made.image_size = polygons, image_size or self.image_size
        return made

    def to(self, *args: Any, **kwargs: Any) -> "PolygonMasks":
        """Itself: polygons stay on the CPU."""
        return self

    def bitmaps(self) -> BitMasks:
        """As bitmaps, rasterised by COCO's rule (pycocotools)."""
        out = np.zeros((len(self), *self.image_size), np.uint8)
        for i, polygons in enumerate(self.polygons):
            if polygons:
                out[i] = coco_mask.decode(_encode(polygons, *self.image_size))
        return BitMasks(torch.from_numpy(out.view(bool)))

    def boxes(self) -> Boxes:
        """Tight boxes around the points; an empty mask gives (0, 0, 0, 0)."""
        out = np.zeros((len(self), 4), np.float32)
        for i, polygons in enumerate(self.polygons):
            if polygons:
                points = np.concatenate(polygons)
                out[i] = *points.min(0), *points.max(0)
        return Boxes(torch.from_numpy(out))

    def areas(self) -> Tensor:
        """``(N,)`` float32 areas by the shoelace formula; what two polygons of an object share counts twice."""
        return torch.tensor([sum(_area(p) for p in polygons) for polygons in self.polygons], dtype=torch.float32)

    def rle(self) -> list[dict[str, Any]]:
        """COCO compressed RLE, counts as str."""
        height, width = self.image_size
        encoded = [_encode(polygons, height, width) for polygons in self.polygons]
        return [{"size": [height, width], "counts": r["counts"].decode("ascii")} for r in encoded]

    def transform(self, transform: Transform) -> "PolygonMasks":
        """The objects where the transform takes them, cut to what is visible there."""
        masks = self
        for step in transform.steps:
            masks = masks._after(step)
        return masks

    def covered(self, hidden: Tensor) -> CroppedMasks:
        """See ``BitMasks.covered``; what is left of a polygon is a bitmap inside its box."""
        return CroppedMasks.around(self).covered(hidden)

    def nonempty(self) -> Tensor:
        """``(N,)`` bool: the polygons have an area, or pixels, as one whose sides cross may have without."""
        nonempty = self.areas() > 0
        for row in (~nonempty).nonzero()[:, 0].tolist():
            nonempty[row] = bool(self[row : row + 1].bitmaps().nonempty())
        return nonempty

    def _after(self, step: Transform) -> "PolygonMasks":
        polygons = self.polygons
        if isinstance(step, CropAndPad):
            polygons = _clipped(polygons, step.visible)
        if step.matrix is None:
            polygons = [[_dense(p) for p in parts] for parts in polygons]
        points = [p for parts in polygons for p in parts]
        moved = step.coords(np.concatenate(points)) if points else np.zeros((0, 2))
        pieces = iter(np.split(moved, np.cumsum([len(p) for p in points])[:-1]))
        polygons = [[next(pieces) for _ in parts] for parts in polygons]
        if step.cuts and not isinstance(step, CropAndPad):
            polygons = _clipped(polygons, (0, 0, step.output_size[1], step.output_size[0]))
        return self._of(polygons, step.output_size)

    def crop_and_resize(self, boxes: Boxes, size: int, method: CropMethod = "roi_align", binary: bool = True) -> Tensor:
        """``(N, size, size)`` on the boxes' device: object i inside box i, resampled, see ``BitMasks.crop_and_resize``.

        Where ``binary``, ``roi_align`` scales the polygons into the box and rasterises them there by COCO's rule, as
        Detectron2 does. All else is resampled from the objects' bitmaps.
        """
        check_pairs(len(self), len(boxes))
        if method != "roi_align" or not binary:
            known, rows = boxes.to("cpu"), range(len(self))
            # One at a time: the bitmaps of all regions of an image may take gigabytes.
            cut = [self[i : i + 1].bitmaps().crop_and_resize(known[i : i + 1], size, method, binary) for i in rows]
            empty = torch.zeros((0, size, size), dtype=torch.bool if binary else torch.float32)
            return torch.cat([empty, *cut]).to(boxes.device)
        out = np.zeros((len(self), size, size), np.uint8)
        regions = boxes.tensor.detach().cpu().double().numpy()
        for i, (polygons, region) in enumerate(zip(self.polygons, regions)):
            if polygons:
                factor = size / np.maximum(region[2:] - region[:2], 0.1)
                out[i] = coco_mask.decode(_encode([(p - region[:2]) * factor for p in polygons], size, size))
        return torch.from_numpy(out.view(bool)).to(boxes.device)

    @staticmethod
    def cat(parts: "Sequence[PolygonMasks]") -> "PolygonMasks":
        """All objects of ``parts``, in order. Raises ValueError if they differ in size or there are none."""
        sizes = {part.image_size for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"PolygonMasks.cat: expected masks of one image size, got {sorted(sizes) or 'nothing'}")
        return parts[0]._of([polygons for part in parts for polygons in part.polygons])


def _dense(points: np.ndarray, most: float = 4.0) -> np.ndarray:
    """The polygon with points at most so many pixels apart, for a map that bends straight lines."""
    sides = np.roll(points, -1, 0) - points
    counts = np.maximum(1, np.ceil(np.abs(sides).max(1) / most)).astype(int)
    share = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) / np.repeat(counts, counts)
    return np.repeat(points, counts, 0) + share[:, None] * np.repeat(sides, counts, 0)


def _clipped(polygons: list[Polygons], region: Region) -> list[Polygons]:
    cut = [[clip_polygon(p, region) for p in parts] for parts in polygons]
    return [[p for p in parts if len(p)] for parts in cut]


def clip_polygon(points: np.ndarray, region: tuple[float, float, float, float]) -> np.ndarray:
    """The part of a polygon inside ``region`` (x1, y1, x2, y2); (0, 2) where there is none.

    Sutherland and Hodgman, "Reentrant polygon clipping", 1974. A part that falls into several pieces comes as one
    polygon whose pieces hang together along the region's border; a spike without area is removed, because it would
    widen the tight box.
    """
    for axis, sign, bound in ((0, 1, region[0]), (1, 1, region[1]), (0, -1, region[2]), (1, -1, region[3])):
        distance = sign * (points[:, axis] - bound)
        inside = distance >= 0
        if inside.all():
            continue
        following = np.roll(distance, -1)
        crosses = inside != (following >= 0)
        share = distance / np.where(crosses, distance - following, 1.0)
        cuts = points + share[:, None] * (np.roll(points, -1, 0) - points)
        cuts[:, axis] = bound
        both, wanted = np.stack([points, cuts], 1), np.stack([inside, crosses], 1)
        points = both.reshape(-1, 2)[wanted.reshape(-1)]
        if len(points) == 0:
            return points
        points = _without_spikes(points, axis)
    return points if len(points) >= 3 and _area(points) > 0 else points[:0]


def _without_spikes(points: np.ndarray, axis: int) -> np.ndarray:
    """Drops the points where the outline turns back on itself along a line of constant ``axis``."""
    while len(points) > 2:
        before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
        for a in (axis, 1 - axis):
            spike = (before[:, a] == 0) & (after[:, a] == 0) & (before[:, 1 - a] * after[:, 1 - a] <= 0)
            if spike.any():
                break
        else:
            return points
        found = np.flatnonzero(spike)
        starts = np.diff(found, prepend=-2) > 1
        number = np.arange(len(found)) - np.maximum.accumulate(np.where(starts, np.arange(len(found)), 0))
        apart = found[number % 2 == 0]  # no two neighbours at once: without the one the other may be none
        points = np.delete(
            points, apart[: len(apart) - (len(apart) > 1 and apart[-1] - apart[0] == len(points) - 1)], 0
        )
    return points


def _points(polygon: Any) -> np.ndarray:
    flat = np.asarray(polygon, dtype=np.float64).reshape(-1)
    if len(flat) < 6 or len(flat) % 2:
        raise ValueError(f"a polygon needs x, y of at least 3 points, got {len(flat)} numbers")
    return flat.reshape(-1, 2)


def outline_length(points: np.ndarray) -> float:
    """How many steps of a pixel its outline has; rasterising takes memory for each."""
    return float(np.abs(points - np.roll(points, -1, 0)).max(1, initial=0).sum())


def _area(points: np.ndarray) -> float:
    x, y = (points - points[0]).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _encode(polygons: Polygons, height: int, width: int) -> dict[str, Any]:
    if sum(outline_length(p) for p in polygons) > LONGEST:  # far beyond the image, or to and fro
        seen = (-1.0, -1.0, width + 1.0, height + 1.0)
        polygons = [part for part in (clip_polygon(p, seen) for p in polygons) if len(part)]
    if not polygons:
        return coco_mask.encode(np.zeros((height, width), np.uint8, order="F"))
    return coco_mask.merge(coco_mask.frPyObjects([p.reshape(-1) for p in polygons], height, width))
