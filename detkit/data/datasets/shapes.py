"""Shapes: a dataset that the package draws itself."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pycocotools.mask as coco_mask
import torch

from detkit.config import Count, CountOrZero, Fraction, Interval, Positive
from detkit.data.datasets.row_reader import Policy
from detkit.data.datasets.rows import ImageRow, Row
from detkit.data.datasets.shapes_drawing import SHAPES, TEXTURES, Scene, draw_scene
from detkit.data.datasets.table_dataset import TableDataset
from detkit.data.interfaces import DATASETS
from detkit.structures import BitMasks, KeypointSpec, Panoptic, Segment
from detkit.utils.progress import watched

Side = Annotated[int, Interval(16)]
MIN_PIXELS = 8
"""No object's diameter is smaller, however small the image."""


@DATASETS.register()
class Shapes(TableDataset):
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
        min_scale: the smallest diameter of an object, in parts of the image's shorter side; never below 8 pixels.
        max_scale: the largest.
        min_visible: an object of which a smaller part than this is visible behind others is left out.
        keypoints: null for none; extremes: the outermost points of what is visible of an object, at its top, right,
            bottom and left, which are corners of those that have some; centres: the one in the middle of it.
        panoptic: whether the ground is labelled, too: a line divides it into two, each side with one texture, and
            records have a semantic map of the shapes together and of the textures.
    """

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Called when a config is loaded, and by the constructor. Raises ValueError for bounds in the wrong order."""
        for least, most in (("min_objects", "max_objects"), ("min_scale", "max_scale")):
            if options[least] > options[most]:
                raise ValueError(f"{least}: expected no more than {most} = {options[most]}, got {options[least]}")

    def __init__(
        self,
        *,
        num_images: Count = 200,
        image_size: tuple[Side, Side] = (128, 128),
        seed: CountOrZero = 0,
        min_objects: CountOrZero = 1,
        max_objects: CountOrZero = 6,
        min_scale: Positive = 0.12,
        max_scale: Positive = 0.6,
        min_visible: Fraction = 0.25,
        keypoints: Literal["extremes", "centres"] | None = None,
        panoptic: bool = False,
    ):
        bounds = {
            "min_objects": min_objects,
            "max_objects": max_objects,
            "min_scale": min_scale,
            "max_scale": max_scale,
        }
        self.check_options(bounds)
        self.size, self.seed = (int(image_size[0]), int(image_size[1])), seed
        smallest = max(min_scale, MIN_PIXELS / min(self.size))
        scale = (smallest, max(smallest, max_scale))
        self._pixels = np.empty((num_images, *self.size, 3), np.uint8)
        self._grounds = np.empty((num_images, *self.size) if panoptic else 0, np.uint8)
        images, rows, (points, spec) = list[ImageRow](), list[Row](), KEYPOINTS[keypoints]
        for i in watched(range(num_images), "drawing shapes", unit="image"):
            rng = np.random.default_rng((seed, i))
            scene = draw_scene(rng, self.size, (min_objects, max_objects), scale, min_visible, panoptic)
            self._pixels[i] = scene.image
            if panoptic:
                self._grounds[i] = scene.ground
            name = f"shapes_{seed}_{i:06d}"
            images.append(ImageRow(i, name, *self.size))
            for row in _rows(scene, points):
                rows.append(Row(len(rows) + 1, i, *row))
        categories = dict(enumerate(SHAPES, 1))
        specs = {} if spec is None else dict.fromkeys(categories, spec)
        super().__init__(images, rows, categories, keypoints=specs, policy=Policy(masks=True))
        if panoptic:
            self.semantic_names = ("things", *TEXTURES)

    def title(self) -> str:
        return f"Shapes of seed {self.seed}, {self.size[1]} x {self.size[0]} pixels"

    def image_path(self, index: int) -> None:
        return None  # the images are drawn

    def read_image(self, index: int) -> np.ndarray:
        return self._pixels[index].copy()

    def panoptic_map(self, index: int) -> Panoptic | None:
        if not self.semantic_names:
            return None
        ids = torch.from_numpy(self._grounds[index].astype(np.int64)) + 1
        objects, things = self.table.record(index, self._pixels[index], "").objects, list[Segment]()
        for bitmap, class_index in zip(objects.masks.bitmaps().tensor, objects.classes.tolist()):
            things.append(Segment(len(TEXTURES) + 1 + len(things), class_index, True))
            ids[bitmap] = things[-1].id
        stuff = [Segment(n, n, False) for n in ids.unique().tolist() if n <= len(TEXTURES)]
        return Panoptic(ids, (*stuff, *things))


def extremes(mask: np.ndarray) -> list[float]:
    """x, y and visibility of the outermost pixels of ``(H, W)`` bool at the top, right, bottom and left.

    Where several are as far out, the middle one.
    """
    y, x = np.nonzero(mask)
    sides = (y == y.min(), x == x.max(), y == y.max(), x == x.min())
    return [float(value) for side in sides for value in (x[side].mean(), y[side].mean(), 2)]


def centre(mask: np.ndarray) -> list[float]:
    """x, y and visibility of the mean over the pixels of ``(H, W)`` bool."""
    y, x = np.nonzero(mask)
    return [float(x.mean()), float(y.mean()), 2.0]


PointsOf = Callable[[np.ndarray], list[float] | None]
KEYPOINTS: dict[str | None, tuple[PointsOf, KeypointSpec | None]] = {
    None: (lambda mask: None, None),
    "extremes": (
        extremes,
        KeypointSpec(("top", "right", "bottom", "left"), ((0, 1), (1, 2), (2, 3), (3, 0)), (0.1,) * 4),
    ),
    "centres": (centre, KeypointSpec(("centre",))),
}
"""What gives the points of a mask, and what they are. The outermost point of a round outline can be marked less exactly
than a joint of a person."""


def _rows(scene: Scene, points: PointsOf) -> Iterator[tuple[Any, ...]]:
    """Category, box, area, crowd flag, mask and keypoints of each object."""
    masks = scene.masks
    boxes = BitMasks(masks).boxes().numpy().astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    encoded = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    areas, crowd = masks.sum((1, 2)).tolist(), [0] * len(masks)
    return zip((scene.classes + 1).tolist(), boxes.tolist(), areas, crowd, encoded, map(points, masks))
