import itertools
import time
from collections import Counter

import pytest

from detkit.data import AspectRatioSampler, Dataset, ShuffleSampler, inference_batches
from detkit.registry import DataError


class Sizes(Dataset):
    """Portrait and landscape images in turn, two to one."""

    def __init__(self, length):
        super().__init__()
        self.length = length

    def __len__(self):
        return self.length

    def image_size(self, index):
        return (10, 20) if index % 3 else (20, 10)


SAMPLERS = [ShuffleSampler, AspectRatioSampler]


def take(sampler, n):
    return list(itertools.islice(iter(sampler), n))


@pytest.mark.parametrize("cls", SAMPLERS)
def test_same_seed_same_stream_other_seed_other_stream(cls):
    def make(seed):
        return take(cls(Sizes(30), 4, seed, 0, 1), 50)

    assert make(1) == make(1)
    assert make(1) != make(2)
    sampler = cls(Sizes(30), 4, 1, 0, 1)
    assert take(sampler, 5) == take(sampler, 5)  # iterating again starts again


@pytest.mark.parametrize("cls", SAMPLERS)
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batches_of_one_process(cls, world):
    alone = take(cls(Sizes(31), 8, 0, 0, 1), 40)
    ranks = [take(cls(Sizes(31), 8 // world, 0, rank, world), 40) for rank in range(world)]
    assert [list(itertools.chain(*parts)) for parts in zip(*ranks)] == alone


def test_shuffle_is_a_permutation_every_epoch():
    length = 13
    stream = list(itertools.chain(*take(ShuffleSampler(Sizes(length), 4, 0, 0, 1), 13)))
    orders = [[i for e, i in stream if e == epoch] for epoch in range(4)]
    assert [epoch for epoch, _ in stream] == sorted(epoch for epoch, _ in stream)
    assert all(sorted(order) == list(range(length)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_aspect_ratio_batches_hold_one_kind_and_leave_no_image_out():
    dataset = Sizes(31)
    batches = take(AspectRatioSampler(dataset, 4, 0, 0, 1), 80)
    for batch in batches:
        assert len(batch) == 4
        assert len({dataset.image_size(i) for _, i in batch}) == 1
    stream = list(itertools.chain(*batches))
    assert len(set(stream)) == len(stream)  # no image twice in an epoch
    counts = Counter(i for _, i in stream)
    assert set(counts) == set(range(31))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_dataset_smaller_than_a_batch():
    assert take(ShuffleSampler(Sizes(1), 3, 0, 0, 1), 2) == [[(0, 0), (1, 0), (2, 0)], [(3, 0), (4, 0), (5, 0)]]


@pytest.mark.parametrize("cls", SAMPLERS)
def test_no_images(cls):
    with pytest.raises(DataError, match="no images"):
        next(iter(cls(Sizes(0), 2, 0, 0, 1)))


@pytest.mark.parametrize(("length", "batch", "world"), [(10, 3, 1), (10, 3, 2), (10, 3, 4), (2, 5, 4), (0, 2, 2)])
def test_inference_sees_every_image_once_in_contiguous_shares(length, batch, world):
    shares = [inference_batches(length, batch, rank, world) for rank in range(world)]
    assert [i for share in shares for b in share for _, i in b] == list(range(length))
    assert list(itertools.chain(*shares)) == inference_batches(length, batch), "a batch is the same on any number"
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(1 <= len(b) <= batch for share in shares for b in share)


def test_skipping_ahead_is_cheap():
    start = time.process_time()
    stream = iter(AspectRatioSampler(Sizes(20000), 16, 0, 0, 1))
    next(itertools.islice(stream, 5000, None))
    assert time.process_time() - start < 5
