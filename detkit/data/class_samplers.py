"""Samplers that show rare classes more often, for data with many classes of very different numbers (LVIS).

An image comes several times an epoch. The first number of a pair ``(epoch, index)`` is then how often the image has
been shown before, so that its augmentations differ from time to time.
"""

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np

from detkit.config import Positive
from detkit.data.interfaces import SAMPLERS, Dataset, Sampler
from detkit.data.samplers import in_batches
from detkit.registry import DataError


def classes_of_images(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of an image and a class that it has, once: indices of images, ascending, and classes."""
    objects, num_classes = dataset.objects(), len(dataset.class_names)
    pairs = np.unique(objects.images * num_classes + objects.classes)
    return pairs // num_classes, pairs % num_classes


def images_per_class(dataset: Dataset) -> np.ndarray:
    """``(K,)``: how many images have each class."""
    return np.bincount(classes_of_images(dataset)[1], minlength=len(dataset.class_names))


class _StreamSampler(Sampler):
    """Batches of a stream of images, which a subclass gives."""

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        *,
        by_aspect_ratio: bool = False,
    ):
        super().__init__(dataset, batch_size, seed, rank, world_size)
        self.by_aspect_ratio = by_aspect_ratio

    def images(self) -> Iterator[int]:
        """Indices of images, without end."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return in_batches(self, _times_seen(self.images()), by_aspect_ratio=self.by_aspect_ratio)


@SAMPLERS.register()
class RepeatFactorSampler(_StreamSampler):
    """An image comes as often as its rarest class asks for (Gupta et al. 2019, LVIS).

    That is ``max(1, sqrt(thresh / f))`` times an epoch on average, where f is the share of images that have the class.

    Args:
        thresh: classes in a smaller share of the images are shown more often.
        by_aspect_ratio: a batch holds only landscape or only portrait images, as with ``AspectRatioSampler``.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        *,
        thresh: Positive = 0.001,
        by_aspect_ratio: bool = False,
    ):
        super().__init__(dataset, batch_size, seed, rank, world_size, by_aspect_ratio=by_aspect_ratio)
        self.thresh = thresh

    def repeat_factors(self) -> np.ndarray:
        """``(N,)``: how often each image comes an epoch, on average."""
        factors = np.ones(len(self.dataset))
        images, classes = classes_of_images(self.dataset)
        shares = np.bincount(classes) / max(len(factors), 1)
        np.maximum.at(factors, images, np.sqrt(self.thresh / shares[classes]))
        return factors

    def images(self) -> Iterator[int]:
        """See ``_StreamSampler.images``: epoch by epoch."""
        factors = self.repeat_factors()
        for epoch in itertools.count():
            rng = np.random.default_rng((self.seed, epoch))
            order = rng.permutation(len(factors))
            times = np.floor(factors + rng.random(len(factors))).astype(int)
            yield from rng.permutation(np.repeat(order, times[order])).tolist() if times.max() > 1 else order.tolist()


@SAMPLERS.register()
class ClassBalancedSampler(_StreamSampler):
    """Every class is shown equally often (Shen et al. 2016): the classes take turns, each with an image that has it.

    The images of a class come in a random order, all of them before one comes again. Images without objects never come.

    Args:
        by_aspect_ratio: a batch holds only landscape or only portrait images, as with ``AspectRatioSampler``.
    """

    def images(self) -> Iterator[int]:
        """See ``_StreamSampler.images``: the classes take turns."""
        images, classes = classes_of_images(self.dataset)
        if not len(images):
            raise DataError("the dataset has no images with objects to sample from")
        rng = np.random.default_rng(self.seed)
        images_of = {k: images[classes == k] for k in np.unique(classes).tolist()}
        waiting: dict[int, list[int]] = {k: [] for k in images_of}
        while True:
            for k in rng.permutation(list(images_of)).tolist():
                if not waiting[k]:
                    waiting[k] = rng.permutation(images_of[k]).tolist()
                yield waiting[k].pop()


def _times_seen(indices: Iterator[int]) -> Iterator[tuple[int, int]]:
    """``(n, index)`` of a stream of images: each with how often it has come before."""
    seen: Counter[int] = Counter()
    for index in indices:
        yield seen[index], index
        seen[index] += 1
