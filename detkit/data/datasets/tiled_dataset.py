"""TiledDataset: large images cut into overlapping tiles."""

import dataclasses
from typing import Annotated, Any

import numpy as np

from detkit.config import Count, Fraction, Interval, Recipe
from detkit.data.flat import offsets
from detkit.data.interfaces import DATASETS, EVERY_CLASS, NEGATIVE, NOT_EXHAUSTIVE, Dataset, ObjectTable, Record
from detkit.registry import DataError
from detkit.structures import Panoptic, Tiling


@DATASETS.register()
class TiledDataset(Dataset):
    """The overlapping tiles of a dataset's images, each an image by itself, so that every epoch sees all of them.

    Objects are cut where their tile ends. A tile's image has the id ``"17-384-0"``: that of its image, x and y. With
    at most T tiles an image, annotation a has in tile t of its image the id ``a * T + t``. An image is read for each of
    its tiles, unless these follow one another.

    Args:
        dataset: whose images are cut.
        size: height and width of a tile in pixels, or one number for both.
        overlap: see ``Tiling``.
        min_visible: the share of an object's box that a tile must show; it is left out of tiles that show less. What
            is larger than a tile may be left out of all.
        keep_empty: the share of the tiles without objects that is kept, evenly spread; there may be far more of them
            than of others.

    Raises:
        DataError: no tile is left.
    """

    def __init__(
        self,
        *,
        dataset: Recipe[Dataset],
        size: Count | tuple[Count, Count],
        overlap: Annotated[float, Interval(0, 0.9, above=True)] = 0.25,
        min_visible: Fraction = 0.3,
        keep_empty: Fraction = 0.1,
    ):
        super().__init__()
        self.dataset, self.tiling = dataset(), Tiling(size=size, overlap=overlap)
        self.min_visible, self.keep_empty = min_visible, keep_empty
        points = ("keypoint_names", "keypoint_flip_pairs", "keypoint_sigmas", "skeleton")
        for name in ("class_names", "category_ids", *points, "semantic_names", "stuff_ids"):
            setattr(self, name, getattr(self.dataset, name))
        tiles_per_image = [self.tiling.tiles(self.dataset.image_size(image)) for image in range(len(self.dataset))]
        self._most = max(map(len, tiles_per_image), default=1)
        images = np.repeat(np.arange(len(tiles_per_image)), [len(tiles) for tiles in tiles_per_image])
        self._regions = np.array([tile.region for tiles in tiles_per_image for tile in tiles], np.int64).reshape(-1, 4)
        self._numbers = np.concatenate([np.arange(len(tiles)) for tiles in tiles_per_image] or [images])
        self._images = images
        self._read: tuple[int, Any] = (-1, None)
        self._read_map: tuple[int, Panoptic | None] = (-1, None)
        empty = np.bincount(self._shown(self.dataset.objects())[1], minlength=len(images)) == 0
        order = np.cumsum(empty) * keep_empty
        kept = ~empty | (np.floor(order + 1e-9) > np.floor(order - keep_empty + 1e-9))
        if not kept.any():
            raise DataError(f"TiledDataset: none of {len(kept)} tiles has an object; keep_empty=1 keeps those without")
        self._images, self._regions, self._numbers = images[kept], self._regions[kept], self._numbers[kept]
        self._left_out = int((~kept).sum())

    def _shown(self, objects: ObjectTable) -> tuple[np.ndarray, np.ndarray]:
        """Rows of ``objects``, and for each a tile that shows enough of it, ordered by tile."""
        starts = offsets(np.bincount(objects.images, minlength=len(self.dataset)))
        counts = np.diff(starts)[self._images]
        owners = np.repeat(np.arange(len(self._images)), counts)
        rows = np.arange(counts.sum()) - np.repeat(offsets(counts)[:-1], counts) + starts[:-1][self._images][owners]
        enough = self._enough(objects.boxes[rows], self._regions[owners])
        return rows[enough], owners[enough]

    def _enough(self, boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
        cut = np.concatenate([np.maximum(boxes[:, :2], regions[:, :2]), np.minimum(boxes[:, 2:], regions[:, 2:])], 1)
        shown, whole = ((b[:, 2:] - b[:, :2]).clip(0).prod(1) for b in (cut, boxes))
        return (shown > 0) & (shown >= self.min_visible * whole)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"tile {index} of {len(self)}")
        image = int(self._images[index])
        if self._read[0] != image:
            self._read = (image, self.dataset[image])
        record, region = self._read[1], self._regions[index]
        crop = next(t.crop for t in self.tiling.tiles(record.size) if t.region == tuple(region.tolist()))
        boxes = record.objects.boxes.numpy()
        record = record.select(self._enough(boxes, region[None])).apply(crop)
        ids = record.objects.annotation_ids * self._most + int(self._numbers[index])
        return dataclasses.replace(
            record.with_objects(record.objects.with_fields(annotation_ids=ids)),
            image_id=self.image_id(index),
            original_size=record.size,
        )

    def panoptic_map(self, index: int) -> Panoptic | None:
        """See ``Dataset.panoptic_map``; with the segments that the tile shows."""
        image = int(self._images[index])
        if self._read_map[0] != image:
            self._read_map = (image, self.dataset.panoptic_map(image))
        whole = self._read_map[1]
        if whole is None:
            return None
        x1, y1, x2, y2 = self._regions[index].tolist()
        ids = whole.ids[y1:y2, x1:x2].clone()
        shown = {*ids.unique().tolist()}
        return Panoptic(ids, tuple(segment for segment in whole.segments if segment.id in shown))

    @property
    def has_panoptic_maps(self) -> bool:
        return self.dataset.has_panoptic_maps

    def maps(self, index: int) -> dict[str, np.ndarray]:
        return dict(self[index].maps)

    def image_size(self, index: int) -> tuple[int, int]:
        x1, y1, x2, y2 = self._regions[index].tolist()
        return y2 - y1, x2 - x1

    def image_id(self, index: int) -> str:
        x, y = self._regions[index, :2].tolist()
        return f"{self.dataset.image_id(int(self._images[index]))}-{x}-{y}"

    def objects(self) -> ObjectTable:
        table = self.dataset.objects()
        rows, owners = self._shown(table)
        regions = self._regions[owners]
        low, sides = regions[:, :2], regions[:, 2:] - regions[:, :2]
        boxes, extents = (
            (values[rows].reshape(-1, 2, 2) - low[:, None]).clip(0, sides[:, None]).reshape(-1, 4).astype(np.float32)
            for values in (table.boxes, table.extents)
        )
        ids = table.ids[rows] * self._most + self._numbers[owners]
        return ObjectTable(owners, ids, table.classes[rows], table.crowd[rows], boxes, extents)

    def coco(self) -> dict[str, Any]:
        """See ``Dataset.coco``. Every image is read."""
        content = self.dataset.coco()
        whole = {image["id"]: image for image in content["images"]}
        of_every_class = {entry["id"] for entry in content["annotations"] if entry.get(EVERY_CLASS)}
        images, annotations = [], list[dict[str, Any]]()
        for index in range(len(self)):
            (height, width), id_ = self.image_size(index), self.image_id(index)
            own = whole[self.dataset.image_id(int(self._images[index]))]
            lists = {key: own[key] for key in (NEGATIVE, NOT_EXHAUSTIVE) if key in own}
            images.append({"id": id_, "file_name": id_, "height": height, "width": width, **lists})
            annotations += _entries(self[index], self.category_ids)
        for entry in annotations:
            if entry["id"] // self._most in of_every_class:
                entry[EVERY_CLASS] = 1
        return {"info": {}, "images": images, "annotations": annotations, "categories": content["categories"]}

    def summary(self) -> str:
        (height, width), left_out = self.tiling.sides, self._left_out
        first = f"{len(self)} tiles of {width} x {height} pixels, and {left_out} without objects that are left out, of"
        return f"{first}\n{self.dataset.summary()}"


def _entries(record: Record, category_ids: tuple[int, ...]) -> list[dict[str, Any]]:
    """The record's objects in COCO's form."""
    objects = record.objects
    boxes, masks, points = objects.boxes, objects.fields.get("masks"), objects.fields.get("keypoints")
    areas = boxes.area() if masks is None else masks.areas()
    entries = [
        {
            "id": int(objects.annotation_ids[row]),
            "image_id": record.image_id,
            "category_id": category_ids[int(objects.classes[row])],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(areas[row]),
            "iscrowd": int(objects.crowd[row]),
        }
        for row, (x1, y1, x2, y2) in enumerate(boxes.tolist())
    ]
    for entry, rle in zip(entries, () if masks is None else masks.rle()):
        entry["segmentation"] = rle
    for entry, own in zip(entries, () if points is None else points.tensor):
        shown = (own[:, 2:] > 0) * own.new_tensor([0.5, 0.5, 0])
        entry["keypoints"] = (own - shown).ravel().tolist()
        entry["num_keypoints"] = int((own[:, 2] > 0).sum())
    return entries
