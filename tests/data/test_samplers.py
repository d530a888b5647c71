import itertools
import math
import time
from collections import Counter

import numpy as np
import pytest

from detkit.data import (
    AspectRatioSampler,
    ClassBalancedSampler,
    Dataset,
    ObjectTable,
    RepeatFactorSampler,
    ShuffleSampler,
    images_per_class,
    inference_batches,
)
from detkit.registry import DataError


class Sizes(Dataset):
    """Portrait and landscape images in turn, two to one."""

    def __init__(self, length):
        super().__init__()
        self.length = length
        self.class_names = ("even", "odd")

    def __len__(self):
        return self.length

    def image_size(self, index):
        return (10, 20) if index % 3 else (20, 10)

    def objects(self):
        """Two classes in turn."""
        images = np.arange(self.length)
        nothing = np.zeros((self.length, 4), np.float32)
        return ObjectTable(images, images, images % 2, images < 0, nothing, nothing)


SAMPLERS = [ShuffleSampler, AspectRatioSampler, RepeatFactorSampler, ClassBalancedSampler]


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


class Classes(Sizes):
    """Images with the classes that ``of_images`` lists."""

    def __init__(self, of_images):
        super().__init__(len(of_images))
        self.class_names = tuple(f"c{k}" for k in range(1 + max(itertools.chain(*of_images, [0]))))
        images = np.repeat(np.arange(len(of_images)), [len(classes) for classes in of_images])
        classes = np.array([k for classes in of_images for k in classes], dtype=np.int64)
        nothing = np.zeros((len(images), 4), np.float32)
        self.table = ObjectTable(images, np.arange(len(images)), classes, classes < 0, nothing, nothing)

    def objects(self):
        return self.table


RARE = [[0], [0, 0], [0], [0], [0], [0], [0, 1], []]


def test_repeat_factors_are_those_of_lvis():
    factors = RepeatFactorSampler(Classes(RARE), 1, 0, 0, 1, thresh=0.9).repeat_factors()
    often, rare = math.sqrt(0.9 / (7 / 8)), math.sqrt(0.9 / (1 / 8))
    assert factors.tolist() == pytest.approx([often] * 6 + [rare, 1.0])
    assert RepeatFactorSampler(Classes(RARE), 1, 0, 0, 1).repeat_factors().tolist() == [1.0] * 8
    assert images_per_class(Classes(RARE)).tolist() == [7, 1]


def test_images_come_as_often_as_their_factors_say():
    sampler = RepeatFactorSampler(Classes(RARE), 1, 0, 0, 1, thresh=0.9)
    factors = sampler.repeat_factors()
    counts = Counter(index for ((_, index),) in take(sampler, round(400 * factors.sum())))
    assert [counts[i] / 400 for i in range(8)] == pytest.approx(factors.tolist(), rel=0.05)


def test_nothing_rare_is_the_shuffled_order():
    assert take(RepeatFactorSampler(Classes(RARE), 3, 5, 0, 1), 20) == take(
        ShuffleSampler(Classes(RARE), 3, 5, 0, 1), 20
    )


def test_classes_take_turns_and_all_images_of_a_class_come_before_one_comes_again():
    content = [[0]] * 5 + [[1]] + [[2], [2]] + [[]]
    stream = [index for ((_, index),) in take(ClassBalancedSampler(Classes(content), 1, 0, 0, 1), 60)]
    for turn in range(0, 60, 3):
        assert sorted(content[index][0] for index in stream[turn : turn + 3]) == [0, 1, 2]
    zeros = [index for index in stream if index < 5]
    assert all(sorted(zeros[i : i + 5]) == list(range(5)) for i in range(0, 20, 5))


@pytest.mark.parametrize("cls", [RepeatFactorSampler, ClassBalancedSampler])
def test_an_image_that_comes_again_is_another_sample(cls):
    options = {"thresh": 0.9} if cls is RepeatFactorSampler else {}
    stream = list(itertools.chain(*take(cls(Classes(RARE), 4, 0, 0, 1, **options), 50)))
    assert len(set(stream)) == len(stream)
    batches = take(cls(Classes(RARE), 2, 0, 0, 1, by_aspect_ratio=True, **options), 30)
    assert all(len({Sizes.image_size(None, index) for _, index in batch}) == 1 for batch in batches)


def test_without_objects_there_is_no_class_to_sample():
    with pytest.raises(DataError, match="no images with objects"):
        next(iter(ClassBalancedSampler(Classes([[], []]), 1, 0, 0, 1)))
    assert take(RepeatFactorSampler(Classes([[], []]), 2, 0, 0, 1), 1)
