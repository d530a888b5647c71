import dataclasses
import itertools

import numpy as np
import pytest
import torch

from detkit.data import (
    ColorJitter,
    CopyPaste,
    Mapper,
    RandomCrop,
    RandomFlip,
    Resize,
    ResizeAndPad,
    Shapes,
    ShuffleSampler,
    TorchvisionV2,
    train_loader,
)
from detkit.data import test_loader as make_test_loader
from detkit.registry import DataError
from detkit.structures import BitMasks, Boxes, CroppedMasks, PolygonMasks, Sample


@pytest.fixture(scope="module")
def dataset():
    return Shapes(num_images=7, image_size=(48, 64))


class Broken(Shapes):
    def __getitem__(self, index):
        if index == 3:
            raise DataError("/data/broken_3.png: cannot be decoded")
        return super().__getitem__(index)


def steps():
    blur = TorchvisionV2(transform="GaussianBlur", options={"kernel_size": 3})
    return [RandomFlip(), ColorJitter(), RandomCrop(size=(0.5, 0.5)), CopyPaste(prob=1.0), blur]


def same(a: Sample, b: Sample) -> bool:
    return (
        a.image_id == b.image_id
        and torch.equal(a.image, b.image)
        and torch.equal(a.target.boxes.tensor, b.target.boxes.tensor)
        and torch.equal(a.target.masks.bitmaps().tensor, b.target.masks.bitmaps().tensor)
    )


def batches(dataset, workers, n=6, start=0):
    mapper = Mapper(dataset, steps(), seed=3)
    loader = train_loader(dataset, mapper, ShuffleSampler(dataset, 3, 3, 0, 1), workers, start_batch=start)
    return list(itertools.islice(loader, n))


def test_sample_is_what_the_model_takes(dataset):
    sample = Mapper(dataset, [Resize(size=(60, 80))])(0, 2)
    assert sample.image.shape == (3, 60, 80)
    assert sample.image.dtype == torch.uint8
    assert sample.image.is_contiguous()
    assert (sample.image_id, sample.original_size) == (2, (48, 64))
    assert sample.target.image_size == (60, 80)
    assert sample.target.classes.dtype == torch.int64
    assert sample.target.masks.image_size == (60, 80)
    assert len(sample.target) == len(dataset[2].objects) > 0


def test_image_is_the_records_image(dataset):
    sample = Mapper(dataset, train=False)(0, 1)
    assert (sample.image.permute(1, 2, 0).numpy() == dataset[1].image).all()
    assert torch.equal(sample.target.boxes.tensor, dataset[1].objects.boxes.tensor)
    assert torch.equal(sample.target.masks.tensor, dataset[1].objects.masks.tensor)


def test_crowds_are_no_targets(dataset):
    class Crowded(Shapes):
        def __getitem__(self, index):
            record = super().__getitem__(index)
            record.objects.crowd[0] = True
            return record

    crowded = Crowded(num_images=3, image_size=(48, 64))
    for train in (True, False):
        sample = Mapper(crowded, train=train)(0, 0)
        assert sample.target.classes.tolist() == dataset[0].objects.classes[1:].tolist()
        assert "crowd" not in sample.target
        kept = Mapper(crowded, [RandomFlip(prob=1.0)], train=train, keep_crowd=True)(0, 0).target
        assert kept.classes.tolist() == dataset[0].objects.classes.tolist()
        assert kept.crowd.dtype == torch.bool
        assert kept.crowd.tolist() == [True] + [False] * (len(kept) - 1)


def test_mask_format(dataset):
    class Polygons(Shapes):
        def __getitem__(self, index):
            record = super().__getitem__(index)
            square = [np.array([5.0, 5, 20, 5, 20, 20, 5, 20])]
            objects = record.objects[:1].with_fields(masks=PolygonMasks([square], (48, 64)))
            return record.with_objects(objects)

    polygons = Polygons(num_images=1, image_size=(48, 64))
    assert isinstance(Mapper(polygons)(0, 0).target.masks, PolygonMasks)
    bitmaps = Mapper(polygons, mask_format="bitmap")(0, 0).target.masks
    assert isinstance(bitmaps, BitMasks)
    assert bitmaps.areas().tolist() == [225]
    minis = Mapper(polygons, [Resize(size=(480, 640))], mask_format="mini", mini_mask_size=14)(0, 0).target.masks
    assert isinstance(minis, CroppedMasks)
    assert minis.cells.shape == (1, 14, 14)
    assert minis.areas().tolist() == [22500], "made after the augmentations"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["box", "polygon"])
@pytest.mark.parametrize("workers", [0, 1])
def test_numbers_that_are_not_finite_are_an_error_of_the_data(what, value, workers):
    class Wrong(Shapes):
        def __getitem__(self, index):
            record = super().__getitem__(index).select(np.arange(2) < 2)
            shapes = [np.array([5.0, 5, 20, 5, 20, 20]), np.array([5.0, 5, 20, 5, value, 20])]
            if what == "box":
                record.objects.boxes.tensor[1, 2] = value
                return record
            masks = PolygonMasks([shapes[:1], shapes], (48, 64))
            return record.with_objects(record.objects.with_fields(masks=masks))

    wrong = Wrong(num_images=2, image_size=(48, 64), min_objects=2, max_objects=2)
    record = wrong[0]
    words = f"{record.file_name}: annotation {record.objects.annotation_ids[1]} has .* with a number that is not finite"
    with pytest.raises(DataError, match=words):
        next(iter(make_test_loader(wrong, Mapper(wrong, [RandomFlip()]), 1, workers)))


def test_object_too_thin_for_its_mini_mask_stays_a_target(dataset):
    class Line(Shapes):
        def __getitem__(self, index):
            record = super().__getitem__(index)
            fields = {"boxes": Boxes([[0, 0, 48, 48]]), "masks": BitMasks(torch.eye(48, 64)[None])}
            return record.with_objects(record.objects[:1].with_fields(**fields))

    line = Line(num_images=1, image_size=(48, 64))
    target = Mapper(line, mask_format="mini", mini_mask_size=4)(0, 0).target
    assert target.boxes.tolist() == [[0, 0, 48, 48]]
    assert not target.masks.cells.any()


def test_valid_region_and_active_classes_reach_the_sample(dataset):
    class Partly(Shapes):
        def __getitem__(self, index):
            return dataclasses.replace(super().__getitem__(index), active_classes=np.array([1, 1, 0, 0, 1], bool))

    partly = Partly(num_images=2, image_size=(48, 64))
    mapper = Mapper(partly, [ResizeAndPad(min_size=0, max_size=128)])
    for sample in next(iter(make_test_loader(partly, mapper, 2, num_workers=1))):
        assert sample.image.shape == (3, 128, 128)
        assert sample.valid_region == sample.target.valid_region == (32, 40, 96, 88)
        for active in (sample.active_classes, sample.target.info.active_classes):
            assert active.tolist() == [True, True, False, False, True]
    plain = Mapper(dataset)(0, 0)
    assert plain.valid_region is None
    assert plain.active_classes is None
    assert plain.target.valid_region == (0, 0, 64, 48)


def test_randomness_depends_on_seed_epoch_and_index_alone(dataset):
    mapper = Mapper(dataset, steps(), seed=1)
    assert same(mapper(2, 4), mapper(2, 4))
    assert same(mapper(2, 4), Mapper(dataset, steps(), seed=1)(2, 4))
    assert not same(mapper(2, 4), mapper(3, 4))
    assert not same(mapper(2, 4), Mapper(dataset, steps(), seed=2)(2, 4))


def test_workers_change_nothing(dataset):
    alone, helped = batches(dataset, 0), batches(dataset, 2)
    assert [len(b) for b in helped] == [3] * 6
    assert all(same(x, y) for a, b in zip(alone, helped) for x, y in zip(a, b))
    assert type(helped[0][0].target.masks) is CroppedMasks


def test_resumed_stream_goes_on_where_it_stopped(dataset):
    whole, rest = batches(dataset, 0, n=6), batches(dataset, 0, n=3, start=3)
    assert all(same(x, y) for a, b in zip(whole[3:], rest) for x, y in zip(a, b))


def test_loading_leaves_the_global_random_state_alone(dataset):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    batches(dataset, 0)
    assert torch.equal(torch.rand(3), before[0])
    assert (np.random.rand(3) == before[1]).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_test_loader_gives_every_image_once(dataset, workers):
    loader = make_test_loader(dataset, Mapper(dataset, train=False), 3, workers)
    assert len(loader) == 3
    for _ in range(2):  # and again
        assert [[s.image_id for s in b] for b in loader] == [[0, 1, 2], [3, 4, 5], [6]]
    ranks = [make_test_loader(dataset, Mapper(dataset, train=False), 3, 0, rank, 2) for rank in range(2)]
    assert sorted(s.image_id for loader in ranks for b in loader for s in b) == list(range(7))
    assert [len(loader) for loader in ranks] == [1, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_reaches_the_user_with_its_own_words(workers):
    broken = Broken(num_images=5, image_size=(48, 64))
    loader = make_test_loader(broken, Mapper(broken), 2, workers)
    with pytest.raises(DataError) as error:
        list(loader)
    hint = "To leave out images that cannot be read: data.skip_unreadable=true"
    assert str(error.value) == f"/data/broken_3.png: cannot be decoded. {hint}"


def test_many_tensors_may_be_held_at_once(dataset):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1024:
        pytest.skip("the system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        held = batches(dataset, 1, n=60)
        assert len(held) == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_empty_training_set_is_refused(dataset):
    class Empty(Shapes):
        def __len__(self):
            return 0

    empty = Empty(num_images=1)
    with pytest.raises(DataError, match="no images"):
        train_loader(empty, Mapper(empty), ShuffleSampler(empty, 2, 0, 0, 1))
