"""Tilings: what tiles cover, and how far they overlap."""

import numpy as np
import pytest

from detkit.structures import Tiling

SIZES = [(2048, 2048), (513, 512), (512, 512), (100, 700), (1, 1), (999, 1501), (64, 65)]


@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("tiling", [Tiling(size=512), Tiling(size=(64, 48), overlap=0.5), Tiling(size=33, overlap=0.1)])
def test_cores_fill_the_image_without_overlap_and_lie_in_their_tiles(image_size, tiling):
    owners = np.zeros(image_size, int)
    for tile in tiling.tiles(image_size):
        (x1, y1, x2, y2), (left, top, right, bottom) = tile.core, tile.region
        assert (left <= x1 <= x2 <= right, top <= y1 <= y2 <= bottom) == (True, True)
        assert tile.crop.output_size == tuple(min(*sides) for sides in zip(image_size, tiling.sides))
        assert (bottom - top, right - left) == tile.crop.output_size
        owners[y1:y2, x1:x2] += 1
    assert (owners == 1).all()


@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("overlap", [0.1, 0.25, 0.5, 0.9])
def test_an_object_as_large_as_the_overlap_lies_whole_in_some_tile(image_size, overlap):
    regions = [tile.region for tile in Tiling(size=64, overlap=overlap).tiles(image_size)]
    side = round(64 * overlap)
    for axis, length in ((0, image_size[1]), (1, image_size[0])):
        spans = {(region[axis], region[axis + 2]) for region in regions}
        for start in range(max(1, length - side + 1)):
            assert any(low <= start and min(start + side, length) <= high for low, high in spans)


@pytest.mark.parametrize(("size", "overlap"), [(0, 0.25), ((64, 0), 0.25), (64, 0.0), (64, 0.95), ((1, 2, 3), 0.25)])
def test_a_tiling_that_cannot_be_is_refused(size, overlap):
    with pytest.raises(ValueError, match="size of 1 pixel or more and an overlap above 0"):
        Tiling(size=size, overlap=overlap)
