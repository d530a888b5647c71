"""AnnotationTable: all annotations of a dataset in flat arrays."""

import dataclasses
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import torch
from tabulate import tabulate

from detkit.data.flat import Ragged
from detkit.data.interfaces import ObjectTable, Record
from detkit.structures import BitMasks, Boxes, Instances, Masks, PolygonMasks


@dataclasses.dataclass(frozen=True)
class AnnotationTable:
    """A annotations of I images, ordered by image.

    Args:
        starts: ``(I + 1,)``; image i has the rows ``starts[i]`` to ``starts[i + 1] - 1``.
        ids: ``(A,)`` int64.
        classes: ``(A,)`` int64, 0..K-1.
        crowd: ``(A,)`` bool.
        areas: ``(A,)`` float64 square pixels, as the file gives them.
        file_boxes: ``(A, 4)`` float64 x, y, width, height, as the file gives them.
        boxes: ``(A, 4)`` float32 xyxy, cut to the image.
        polygon_starts: ``(A + 1,)``; annotation a has the polygons ``polygon_starts[a]`` and following.
        polygons: x, y, x, y, ... of each polygon, float64.
        rles: the compressed counts of each annotation, uint8; empty where it has polygons.
        has_masks: False where the data has boxes only.
    """

    starts: np.ndarray
    ids: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    file_boxes: np.ndarray
    boxes: np.ndarray
    polygon_starts: np.ndarray
    polygons: Ragged
    rles: Ragged
    has_masks: bool

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, image: int) -> slice:
        """The rows of an image."""
        return slice(int(self.starts[image]), int(self.starts[image + 1]))

    def image_of(self) -> np.ndarray:
        """``(A,)`` the image of each annotation."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def objects(self, images: np.ndarray, sizes: np.ndarray) -> ObjectTable:
        """The annotations of some images, which are numbered anew, as a dataset's ``objects`` gives them.

        Args:
            images: increasing numbers of images.
            sizes: ``(I, 2)`` (height, width) of every image.
        """
        image_of = self.image_of()
        number = np.full(len(self.starts) - 1, -1, np.int64)
        number[images] = np.arange(len(images))
        rows = number[image_of] >= 0
        limits = sizes[image_of].astype(np.float64)[:, [1, 0, 1, 0]]
        return ObjectTable(
            images=number[image_of][rows],
            ids=self.ids[rows],
            classes=self.classes[rows],
            crowd=self.crowd[rows],
            boxes=self.boxes[rows],
            extents=np.clip(self._extents(sizes[image_of]), 0, limits)[rows].astype(np.float32),
        )

    def _extents(self, sizes: np.ndarray) -> np.ndarray:
        """``(A, 4)`` xyxy around each mask, NaN where there is none; the image of annotation a is of ``sizes[a]``."""
        out = np.full((len(self), 4), np.nan)
        owner = np.repeat(np.arange(len(self)), np.diff(self.polygon_starts))
        corners = np.empty((len(owner), 4))
        for axis in range(2) if len(owner) else ():
            values, starts = self.polygons.data[axis::2], self.polygons.offsets[:-1] // 2
            corners[:, axis] = np.minimum.reduceat(values, starts)
            corners[:, axis + 2] = np.maximum.reduceat(values, starts)
        first = self.polygon_starts[:-1]
        some = np.flatnonzero(np.diff(self.polygon_starts))
        if len(some):
            out[some, :2] = np.minimum.reduceat(corners[:, :2], first[some])
            out[some, 2:] = np.maximum.reduceat(corners[:, 2:], first[some])
        runs = np.flatnonzero(np.diff(self.rles.offsets))
        if len(runs):
            boxes = coco_mask.toBbox(
                [self._encoded(row, (int(sizes[row, 0]), int(sizes[row, 1]))) for row in runs.tolist()]
            )
            out[runs] = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        return out

    def record(self, image: int, pixels: np.ndarray, image_id: int | str, file_name: str) -> Record:
        """What is known of an image, in arrays of its own.

        Args:
            image: its number.
            pixels: ``(H, W, C)`` uint8, of the file's size.
            image_id: its id.
            file_name: where it comes from.
        """
        rows, size = self.rows(image), (pixels.shape[0], pixels.shape[1])
        fields: dict[str, Any] = {
            "boxes": Boxes(torch.from_numpy(self.boxes[rows].copy())),
            "classes": torch.from_numpy(self.classes[rows].copy()),
            "crowd": torch.from_numpy(self.crowd[rows].copy()),
            "annotation_ids": torch.from_numpy(self.ids[rows].copy()),
        }
        if self.has_masks:
            fields["masks"] = self.masks(image, size)
        return Record(pixels, image_id, file_name, size, Instances(size, **fields))

    def masks(self, image: int, size: tuple[int, int]) -> Masks | None:
        """The masks of an image of ``size`` (height, width): polygons if all of them are, else bitmaps.

        A crowd, which is no target, does not turn an image's polygons into bitmaps: its box stands in for its RLE.
        """
        if not self.has_masks:
            return None
        rows = range(self.starts[image], self.starts[image + 1])
        runs = [len(self.rles[row]) > 0 for row in rows]
        if not any(run and not self.crowd[row] for run, row in zip(runs, rows)):
            return PolygonMasks([self._box(row) if r else self.polygons_of(row) for r, row in zip(runs, rows)], size)
        out = np.zeros((len(rows), *size), np.uint8)
        for i, row in enumerate(rows):
            out[i] = coco_mask.decode(self._encoded(row, size))
        return BitMasks(torch.from_numpy(out.view(bool)))

    def _box(self, row: int) -> list[np.ndarray]:
        x1, y1, x2, y2 = self.boxes[row].tolist()
        return [np.array([x1, y1, x2, y1, x2, y2, x1, y2], np.float64)]

    def polygons_of(self, row: int) -> list[np.ndarray]:
        """The polygons of one annotation, each x, y, x, y, ..."""
        return [self.polygons[p] for p in range(self.polygon_starts[row], self.polygon_starts[row + 1])]

    def segmentation(self, row: int, size: tuple[int, int]) -> Any:
        """One annotation's shape as COCO writes it: polygons, or compressed RLE with counts as str."""
        counts = self.rles[row]
        if len(counts):
            return {"size": list(size), "counts": counts.tobytes().decode("ascii")}
        return [polygon.tolist() for polygon in self.polygons_of(row)]

    def coco_entries(self, image: int, image_id: int | str, size: tuple[int, int]) -> list[dict[str, Any]]:
        """The annotations of an image as COCO writes them; ``category_id`` is class + 1."""
        entries = []
        for row in range(self.starts[image], self.starts[image + 1]):
            entry = {
                "id": int(self.ids[row]),
                "image_id": image_id,
                "category_id": int(self.classes[row]) + 1,
                "bbox": self.file_boxes[row].tolist(),
                "area": float(self.areas[row]),
                "iscrowd": int(self.crowd[row]),
            }
            if self.has_masks:
                entry["segmentation"] = self.segmentation(row, size)
            entries.append(entry)
        return entries

    def _encoded(self, row: int, size: tuple[int, int]) -> dict[str, Any]:
        counts = self.rles[row]
        if len(counts):
            return {"size": list(size), "counts": counts.tobytes()}
        return coco_mask.merge(coco_mask.frPyObjects(self.polygons_of(row), *size))


def coco_categories(class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The categories of a ground truth whose ids are class + 1."""
    return [{"id": i + 1, "name": name} for i, name in enumerate(class_names)]


def class_table(class_names: tuple[str, ...], counts: np.ndarray) -> str:
    """A table of how many objects each class has, in up to three columns of classes."""
    columns = min(3, len(class_names))
    rows = -(-len(class_names) // columns)
    cells: list[list[Any]] = [[name, int(count)] for name, count in zip(class_names, counts)]
    cells += [["", ""]] * (rows * columns - len(cells))
    table = [[cell for c in range(columns) for cell in cells[c * rows + r]] for r in range(rows)]
    return tabulate(table, headers=["class", "objects"] * columns, tablefmt="simple")
