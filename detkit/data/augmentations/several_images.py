"""Augmentations that make one image of several."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from detkit.config import Count, Fraction, Interval
from detkit.data.interfaces import AUGMENTATIONS, Augmentation, Record
from detkit.structures import Compose, CropAndPad, CroppedMasks, Resize

_Side = Annotated[int, Interval(2)]
_Inside = Annotated[float, Interval(0, 1, above=True, below=True)]


@AUGMENTATIONS.register()
class CopyPaste(Augmentation):
    """Pastes objects of another image, cut out along their masks, at random places that keep them together.

    Objects behind them lose what is covered: masks are cut, boxes follow, and those that are covered wholly are
    dropped (Ghiasi et al. 2021, "Simple copy-paste is a strong data augmentation method for instance segmentation").
    An image without masks stays as it is.

    Args:
        prob: how likely an image is changed, 0 to 1.
        max_objects: the most objects that are pasted; how many is drawn from 1 up to it.
    """

    num_others = 1

    def __init__(self, *, prob: Fraction = 0.5, max_objects: Count = 20):
        super().__init__()
        if not 0 <= prob <= 1 or max_objects < 1:
            raise ValueError(f"CopyPaste: expected prob in 0..1 and max_objects above 0, got {prob} and {max_objects}")
        self.prob, self.max_objects = prob, max_objects

    def __call__(self, record: Record, rng: np.random.Generator, others: Sequence[Record] = ()) -> Record:
        if rng.random() >= self.prob or "masks" not in record.objects:
            return record
        other = others[0]
        slack = [theirs - ours for theirs, ours in zip(other.size, record.size)]
        y, x = (int(rng.integers(min(s, 0), max(s, 0) + 1)) for s in slack)
        other = other.apply(CropAndPad(other.size, x, y, *record.size))
        if "masks" not in other.objects:
            return record
        objects = rng.permutation(np.flatnonzero(~other.objects.crowd.numpy()))
        other = other.select(objects[: int(rng.integers(1, self.max_objects + 1))])
        cover = CroppedMasks.around(other.objects.masks).union().numpy()
        below = record.covered(cover).joined(other)
        maps = {name: np.where(cover, other.maps.get(name, own), own) for name, own in record.maps.items()}
        return dataclasses.replace(below, image=np.where(cover[:, :, None], other.image, record.image), maps=maps)


@AUGMENTATIONS.register()
class Mosaic(Augmentation):
    """Four images side by side, two above two, that meet at a random point (Bochkovskiy et al. 2020, "YOLOv4").

    Each is scaled to cover its tile, its aspect ratio kept, and cut to it at a random place.

    Args:
        size: ``(height, width)`` of the whole in pixels.
        centre: where the four meet, drawn for each side, in parts of it, 0 to 1.
        prob: how likely an image is changed, 0 to 1.
    """

    num_others = 3

    def __init__(
        self,
        *,
        size: tuple[_Side, _Side] = (640, 640),
        centre: tuple[_Inside, _Inside] = (0.3, 0.7),
        prob: Fraction = 1.0,
    ):
        super().__init__()
        if min(size) < 2 or not 0 < centre[0] <= centre[1] < 1 or not 0 <= prob <= 1:
            raise ValueError(
                f"Mosaic: expected a size above 1, a centre of two parts in 0..1, the smaller first, and prob in 0..1, "
                f"got {size}, {centre} and {prob}"
            )
        self.size, self.centre, self.prob = size, centre, prob

    def __call__(self, record: Record, rng: np.random.Generator, others: Sequence[Record] = ()) -> Record:
        if rng.random() >= self.prob:
            return record
        y, x = (min(max(1, round(side * rng.uniform(*self.centre))), side - 1) for side in self.size)
        height, width = self.size
        tiles = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
        placed = [self._placed(part, tile, rng) for part, tile in zip([record, *others], tiles)]
        whole = placed[0]
        image, maps = whole.image.copy(), {name: values.copy() for name, values in whole.maps.items()}
        for part, (x1, y1, x2, y2) in zip(placed[1:], tiles[1:]):
            whole = whole.joined(part)
            image[y1:y2, x1:x2] = part.image[y1:y2, x1:x2]
            for name in maps.keys() & part.maps.keys():
                maps[name][y1:y2, x1:x2] = part.maps[name][y1:y2, x1:x2]
        return dataclasses.replace(whole, image=image, maps=maps, valid_region=None)

    def _placed(self, record: Record, tile: tuple[int, int, int, int], rng: np.random.Generator) -> Record:
        (x1, y1, x2, y2), (height, width) = tile, record.size
        scale = max((y2 - y1) / height, (x2 - x1) / width)
        size = max(y2 - y1, round(height * scale)), max(x2 - x1, round(width * scale))
        top, left = int(rng.integers(size[0] - (y2 - y1) + 1)), int(rng.integers(size[1] - (x2 - x1) + 1))
        cut = CropAndPad(size, left, top, y2 - y1, x2 - x1)
        place = CropAndPad(cut.output_size, -x1, -y1, *self.size)
        return record.apply(Compose([Resize(record.size, size), cut, place]))


@AUGMENTATIONS.register()
class MixUp(Augmentation):
    """Blends an image with another one, scaled to fit into it; the objects of both count alike.

    Zhang et al. 2019, "Bag of freebies for training object detection neural networks". Maps stay those of the image.

    Args:
        weight: the other image's share in the blend, drawn from the first number to the second, 0 to 1.
        prob: how likely an image is changed, 0 to 1.
    """

    num_others = 1

    def __init__(self, *, weight: tuple[Fraction, Fraction] = (0.4, 0.6), prob: Fraction = 0.5):
        super().__init__()
        if not 0 <= weight[0] <= weight[1] <= 1 or not 0 <= prob <= 1:
            raise ValueError(
                f"MixUp: expected a weight of two numbers in 0..1, the smaller first, and prob in 0..1, got {weight} "
                f"and {prob}"
            )
        self.weight, self.prob = weight, prob

    def __call__(self, record: Record, rng: np.random.Generator, others: Sequence[Record] = ()) -> Record:
        if rng.random() >= self.prob:
            return record
        other, weight = others[0], np.float32(rng.uniform(*self.weight))
        scale = min(ours / theirs for ours, theirs in zip(record.size, other.size))
        size = max(1, round(other.size[0] * scale)), max(1, round(other.size[1] * scale))
        other = other.apply(Compose([Resize(other.size, size), CropAndPad(size, 0, 0, *record.size)]))
        blend = record.image * (1 - weight) + other.image * weight
        return dataclasses.replace(record.joined(other), image=(blend + 0.5).astype(np.uint8))
