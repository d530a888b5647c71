"""Tiling: how a large image is cut into overlapping tiles."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from detkit.ranges import Count, Interval
from detkit.structures.transforms import Region, Size
from detkit.structures.upright import CropAndPad


class Tile(NamedTuple):
    """A part of an image.

    Args:
        crop: takes the image to the tile.
        core: the part of the image to which this tile is the nearest; the cores of all tiles fill the image.
    """

    crop: CropAndPad
    core: Region

    @property
    def region(self) -> Region:
        """The part of the image that the tile shows."""
        return self.crop.visible


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiling:
    """Tiles of one size, in rows from the top left, spread evenly so that the last ones end where the image does.

    An image that is smaller than a tile, on one side or both, is not padded: its tiles end with it.

    Args:
        size: height and width of a tile in pixels of the image, or one number for both.
        overlap: the share of a tile that the next one shows too, at least. An object that is no larger than this lies
            whole in some tile.
    """

    size: Count | tuple[Count, Count]
    overlap: Annotated[float, Interval(0, 0.9, above=True)] = 0.25

    def __post_init__(self) -> None:
        sides = self.sides
        if len(sides) != 2 or min(sides) < 1 or not 0 < self.overlap <= 0.9:
            raise ValueError(
                f"tiles: expected a size of 1 pixel or more and an overlap above 0 and up to 0.9, got size {self.size}"
                f" and overlap {self.overlap}"
            )

    @property
    def sides(self) -> Size:
        """``(height, width)`` of a tile."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def tiles(self, image_size: Size) -> list[Tile]:
        """The tiles of an image of ``(height, width)``."""
        rows, columns = (self._spans(*sides) for sides in zip(image_size, self.sides))
        height, width = (min(sides) for sides in zip(image_size, self.sides))
        return [
            Tile(CropAndPad(image_size, x, y, height, width), (left, top, right, bottom))
            for (y, top, bottom), (x, left, right) in itertools.product(rows, columns)
        ]

    def _spans(self, length: int, size: int) -> Sequence[tuple[int, int, int]]:
        """Of an axis: where each tile begins, and the first and the last pixel (excluded) of its core."""
        if length <= size:
            return [(0, 0, length)]
        step = max(1, size - max(1, round(size * self.overlap)))
        number = -(-(length - size) // step) + 1
        starts = [i * (length - size) // (number - 1) for i in range(number)]
        edges = [0, *((before + size + after) // 2 for before, after in itertools.pairwise(starts)), length]
        return list(zip(starts, edges, edges[1:]))
