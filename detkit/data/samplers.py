"""Samplers: in which order images are seen, and which rank sees them.

With w ranks and b images a batch on each, the global batch of b * w images is cut out of one stream that all ranks
draw alike; rank r takes its part r. So one process with a batch of 4 and two with 2 each see the same images a step.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from detkit.data.interfaces import SAMPLERS, Sampler
from detkit.registry import DataError


@SAMPLERS.register()
class ShuffleSampler(Sampler):
    """Every epoch a new random order of all images; batches run on across the end of an epoch."""

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return in_batches(self, shuffled(len(self.dataset), self.seed))


@SAMPLERS.register()
class AspectRatioSampler(Sampler):
    """As ``ShuffleSampler``, but a batch holds only landscape or only portrait images, so less of it is padding.

    Images wait until there are enough of their kind for a batch of all ranks; so the order is not quite the shuffled
    one, and an epoch ends a few batches later for some images.
    """

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return in_batches(self, shuffled(len(self.dataset), self.seed), by_aspect_ratio=True)


def in_batches(
    sampler: Sampler, stream: Iterator[tuple[int, int]], *, by_aspect_ratio: bool = False
) -> Iterator[list[tuple[int, int]]]:
    """The rank's share of each global batch of a stream of images; see ``AspectRatioSampler`` for ``by_aspect_ratio``.

    Sizes of batches are read for each, see ``Sampler``.

    Raises:
        DataError: there are no images.
    """
    if not len(sampler.dataset):
        raise DataError("the dataset has no images to sample from")
    kinds = [0] * len(sampler.dataset)
    if by_aspect_ratio:
        kinds = [int(width > height) for height, width in map(sampler.dataset.image_size, range(len(kinds)))]
    waiting: tuple[list[tuple[int, int]], ...] = ([], [])
    for epoch, index in stream:
        batch = waiting[kinds[index]]
        batch.append((epoch, index))
        while len(batch) >= (total := sampler.batch_size * sampler.world_size):  # more, where batches are smaller now
            first = sampler.rank * sampler.batch_size
            yield batch[first : first + sampler.batch_size]
            del batch[:total]


def shuffled(length: int, seed: int) -> Iterator[tuple[int, int]]:
    """Endless ``(epoch, index)``: each epoch a permutation that depends on (seed, epoch) alone."""
    for epoch in itertools.count():
        for index in np.random.default_rng((seed, epoch)).permutation(length).tolist():
            yield epoch, index


def evenly_spread(length: int, most: int) -> list[int]:
    """At most so many of the first ``length`` whole numbers, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(most, length)).round().astype(int)).tolist()


def inference_batches(length: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[tuple[int, int]]]:
    """Every image exactly once over all ranks: the batches are cut as for one process, each rank has some in a row.

    So a batch holds the same images whatever the number of ranks, and a model that pads them together predicts the
    same to the last bit. The shares differ by at most one batch; with fewer batches than ranks some are empty.
    """
    batches = [[(0, i) for i in range(b, min(b + batch_size, length))] for b in range(0, length, batch_size)]
    return batches[len(batches) * rank // world_size : len(batches) * (rank + 1) // world_size]
