"""Shapes: a dataset that the package draws itself."""

from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
from tqdm import tqdm

from detkit.data.datasets.annotations import AnnotationTable, class_table, coco_categories
from detkit.data.datasets.shapes_drawing import SHAPES, Scene, draw_scene
from detkit.data.flat import Ragged, offsets
from detkit.data.interfaces import DATASETS, Dataset, ObjectTable, Record
from detkit.structures import BitMasks

MIN_PIXELS = 8
"""No object's diameter is smaller, however small the image."""


@DATASETS.register()
class Shapes(Dataset):
    """Circles, squares, triangles, stars and rings with textures, turned and overlapping, on textured ground.

    Needs no file. Image i depends on (seed, i) and the other options alone, so another ``num_images`` gives the same
    first images. A mask is the visible part of its object. Everything is drawn when the dataset is made (about a
    millisecond or two for 128 x 128 pixels) and kept in memory, 3 bytes a pixel.

    Args:
        num_images: how many images.
        image_size: ``(height, width)`` in pixels.
        seed: of everything drawn; sets of different seeds share no image.
        min_objects: the fewest objects that are placed on an image; what is hidden too much is left out.
        max_objects: the most.
        min_scale: the smallest diameter of an object, in parts of the image's shorter side; never below 8
            pixels.
        max_scale: the largest.
        min_visible: an object of which a smaller part than this is visible behind others is left out.
    """

    def __init__(
        self,
        *,
        num_images: int = 200,
        image_size: tuple[int, int] = (128, 128),
        seed: int = 0,
        min_objects: int = 1,
        max_objects: int = 6,
        min_scale: float = 0.12,
        max_scale: float = 0.6,
        min_visible: float = 0.25,
    ):
        super().__init__()
        if num_images < 1 or min(image_size) < 16 or seed < 0:
            raise ValueError(
                f"Shapes: expected num_images of at least 1, image_size of at least 16 x 16 and a seed of at least 0, "
                f"got {num_images}, {image_size} and {seed}"
            )
        if not 0 <= min_objects <= max_objects or not 0 < min_scale <= max_scale:
            raise ValueError(
                f"Shapes: expected 0 <= min_objects <= max_objects, got {min_objects} and {max_objects}; and "
                f"0 < min_scale <= max_scale, got {min_scale} and {max_scale}"
            )
        if not 0 <= min_visible <= 1:
            raise ValueError(f"Shapes: expected 0 <= min_visible <= 1, got {min_visible}")
        self.class_names = SHAPES
        self.size, self.seed = (int(image_size[0]), int(image_size[1])), seed
        smallest = max(min_scale, MIN_PIXELS / min(self.size))
        scale = (smallest, max(smallest, max_scale))
        self._images = np.empty((num_images, *self.size, 3), np.uint8)
        counts, boxes, areas, classes, per_image = [], [], [], [], []
        for i in tqdm(range(num_images), desc="drawing shapes", delay=2, leave=False):
            rng = np.random.default_rng((seed, i))
            scene = draw_scene(rng, self.size, (min_objects, max_objects), scale, min_visible)
            self._images[i] = scene.image
            encoded = _encode(scene)
            counts += [np.frombuffer(rle["counts"], np.uint8) for rle in encoded]
            areas.append(scene.masks.sum((1, 2)))
            boxes.append(BitMasks(scene.masks).boxes().numpy())
            classes.append(scene.classes)
            per_image.append(len(encoded))
        self._table = _table(per_image, counts, np.concatenate(boxes), np.concatenate(areas), np.concatenate(classes))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self._table.record(index, self._images[index].copy(), index, self._name(index))

    def _name(self, index: int) -> str:
        return f"shapes_{self.seed}_{index:06d}"

    def image_size(self, index: int) -> tuple[int, int]:
        """``(height, width)``, the same for all images."""
        return self.size

    def objects(self) -> ObjectTable:
        """All annotations in flat arrays."""
        return self._table.objects(np.arange(len(self)), np.tile(self.size, (len(self), 1)))

    def coco(self) -> dict[str, Any]:
        """The ground truth in COCO's form."""
        size = {"height": self.size[0], "width": self.size[1]}
        images = [{"id": i, "file_name": self._name(i), **size} for i in range(len(self))]
        annotations = [entry for i in range(len(self)) for entry in self._table.coco_entries(i, i, self.size)]
        categories = coco_categories(self.class_names)
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}

    def summary(self) -> str:
        """Images, and objects of each class."""
        height, width = self.size
        counts = np.bincount(self._table.classes, minlength=len(self.class_names))
        first = (
            f"Shapes, seed {self.seed}: {len(self)} images of {width} x {height}, {len(self._table)} objects (masks)"
        )
        return f"{first}\n{class_table(self.class_names, counts)}"


def _encode(scene: Scene) -> list[dict[str, Any]]:
    return coco_mask.encode(np.asfortranarray(scene.masks.transpose(1, 2, 0).astype(np.uint8)))


def _table(
    per_image: list[int], counts: list[np.ndarray], boxes: np.ndarray, areas: np.ndarray, classes: np.ndarray
) -> AnnotationTable:
    return AnnotationTable(
        starts=offsets(per_image),
        ids=np.arange(1, len(classes) + 1),
        classes=classes,
        crowd=np.zeros(len(classes), bool),
        areas=areas.astype(np.float64),
        file_boxes=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).astype(np.float64),
        boxes=boxes,
        polygon_starts=np.zeros(len(classes) + 1, np.int64),
        polygons=Ragged(np.zeros(0), np.zeros(1, np.int64)),
        rles=Ragged.of(counts, np.uint8),
        has_masks=True,
    )
