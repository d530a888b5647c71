"""Errors on the way to a sample name the file, whichever process meets them; workers that die say what to lower."""

import dataclasses
import itertools
import json
import os
import re
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from detkit import data
from detkit.data import Augmentation, CocoInstances, Mapper, Shapes, ShuffleSampler, train_loader
from detkit.data.errors import SampleError, WorkerError, worker_error
from detkit.registry import DataError
from detkit.structures import FailedBatch


class Faulty(Augmentation):
    def __call__(self, record, rng):
        if record.image_id == 3:
            raise ZeroDivisionError("division by zero")
        return record


class Silent(Shapes):
    def __getitem__(self, index):
        if index == 3:
            raise MemoryError
        return super().__getitem__(index)


class Deadly(Augmentation):
    def __call__(self, record, rng):
        if record.image_id == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return record


def read_all(dataset, workers, *augmentations):
    loader = train_loader(
        dataset, Mapper(dataset, augmentations), ShuffleSampler(dataset, 2, 0, 0, 1), num_workers=workers
    )
    return list(itertools.islice(loader, 4))


@pytest.fixture(scope="module")
def shapes():
    return Shapes(num_images=6, image_size=(32, 32), min_objects=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_augmentation_that_fails_names_itself_the_file_and_the_annotations(shapes, workers):
    with pytest.raises(SampleError) as error:
        read_all(shapes, workers, Faulty())
    ids = ", ".join(map(str, shapes[3].objects.annotation_ids.tolist()))
    assert str(error.value) == (
        f"shapes_0_000003 (dataset index 3, annotations {ids}): augmentation 0 (Faulty) failed with"
        " ZeroDivisionError: division by zero"
    )
    cause = error.value.__cause__
    assert isinstance(cause, ZeroDivisionError) or "in __call__" in str(cause), "where in the code it was"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_that_fails_without_words_is_named_with_the_index(workers):
    silent = Silent(num_images=6, image_size=(32, 32))
    words = r"dataset index 3: Silent\[3\] failed with MemoryError: no message; lower data.num_workers"
    with pytest.raises(SampleError, match=words):
        read_all(silent, workers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_image_cut_in_half_is_named(tmp_path, suffix, workers):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    images = []
    for number in range(6):
        name = f"{number}.{suffix}"
        Image.fromarray(pixels).save(tmp_path / name)
        images.append({"id": number, "file_name": name, "height": 64, "width": 64})
    whole = (tmp_path / f"3.{suffix}").read_bytes()
    (tmp_path / f"3.{suffix}").write_bytes(whole[: len(whole) // 2])
    box = {"bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    boxes = [{**box, "id": n, "image_id": n} for n in range(6)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    dataset = CocoInstances(json_file=str(path), image_root=str(tmp_path), check_images=0)
    with pytest.raises(DataError, match=re.escape(f"3.{suffix}: cannot be decoded")):
        read_all(dataset, workers)


def test_a_worker_that_is_killed_says_what_to_lower(shapes):
    with pytest.raises(WorkerError, match=r"(?s)killed it for want of memory.*data\.num_workers \(now 2\)"):
        read_all(shapes, 2, Deadly())


def test_full_shared_memory_is_told_from_too_little_memory():
    torchs = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are"
    words = str(worker_error(RuntimeError(f"{torchs} out of shared memory."), 4))
    assert "--shm-size" in words
    assert "dmesg" not in words
    assert worker_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), 4) is None


class Forgetful(Augmentation):
    def __call__(self, record, rng, others=()):
        pass


def test_an_augmentation_that_gives_no_record_is_named(shapes):
    with pytest.raises(SampleError, match=r"augmentation 0 \(Forgetful\) failed with TypeError: expected a Record"):
        Mapper(shapes, [Forgetful()])(0, 0)


CHANGES = {
    "expected the image as a numpy array .* uint8, got ndarray float64": lambda r: {"image": r.image / 255},
    r"uint8, got ndarray uint8 \(32, 32\)": lambda r: {"image": r.image[:, :, 0]},
    r"uint8, got Tensor torch\.uint8": lambda r: {"image": torch.from_numpy(r.image)},
    r"the image is \(16, 32\), and its objects are those of one of \(32, 32\)": lambda r: {"image": r.image[:16]},
}


@pytest.mark.parametrize("words", CHANGES)
def test_an_augmentation_that_gives_another_kind_of_image_is_named(words, shapes):
    class Changing(Augmentation):
        def __call__(self, record, rng, others=()):
            return dataclasses.replace(record, **CHANGES[words](record))

    with pytest.raises(SampleError, match=rf"augmentation 0 \(Changing\) failed with .*{words}"):
        Mapper(shapes, [Changing()])(0, 0)


class Damaged(Shapes):
    """Some of its images cannot be read."""

    bad = (1, 3, 4)

    def __getitem__(self, index):
        if index in self.bad:
            raise DataError(f"{index}.jpg: cannot be decoded")
        return super().__getitem__(index)


def loaded(dataset, workers=0, **options):
    sampler = ShuffleSampler(dataset, 3, 0, 0, 1)
    loader = train_loader(dataset, Mapper(dataset), sampler, num_workers=workers, **options)
    return list(itertools.islice(loader, 4))  # each image twice


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_cannot_be_read_are_left_out_by_option_counted_and_named_once(caplog, workers):
    dataset = Damaged(num_images=6, image_size=(32, 32))
    with pytest.raises(DataError, match=r"\.jpg: cannot be decoded\. .*data\.skip_unreadable=true"):
        loaded(dataset, workers)
    batches = loaded(dataset, workers, skip_unreadable=True)
    assert [len(batch) for batch in batches] == [3, 3, 3, 3]
    ids = [sample.image_id for batch in batches for sample in batch]
    assert set(ids) == {0, 2, 5}
    assert ids == [sample.image_id for batch in loaded(dataset, 0, skip_unreadable=True) for sample in batch]
    for index in dataset.bad:
        lines = [r.message for r in caplog.records[:3] if r.message.endswith(f": {index}.jpg: cannot be decoded")]
        assert len(lines) == 1
        assert re.match(r"left out \([123] by now\): ", lines[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_test_images_that_cannot_be_read_leave_smaller_batches_but_none_empty(workers):
    dataset = Damaged(num_images=8, image_size=(32, 32))
    options = {"batch_size": 2, "num_workers": workers}
    batches = data.test_loader(dataset, Mapper(dataset, train=False), skip_unreadable=True, **options)
    assert [[s.image_id for s in batch] for batch in batches] == [[0], [2], [5], [6, 7]]
    dataset.bad = (2, 3)
    assert [[s.image_id for s in batch] for batch in batches] == [[0, 1], [4], [4, 5], [6, 7]] or workers
    with pytest.raises(DataError, match=r"\.jpg: cannot be decoded"):
        list(data.test_loader(dataset, Mapper(dataset, train=False), **options))


def test_many_images_in_a_row_that_cannot_be_read_are_an_error_whatever_the_option():
    dataset = Damaged(num_images=40, image_size=(32, 32))
    dataset.bad = range(40)
    with pytest.raises(DataError, match="cannot be decoded"):
        loaded(dataset, skip_unreadable=True)


def test_a_mistake_in_an_augmentation_is_never_left_out(shapes):
    sampler = ShuffleSampler(shapes, 2, 0, 0, 1)
    loader = train_loader(shapes, Mapper(shapes, [Faulty()]), sampler, skip_unreadable=True)
    with pytest.raises(SampleError, match="ZeroDivisionError"):
        list(itertools.islice(loader, 4))


def test_deferred_errors_come_with_a_whole_batch():
    batches = loaded(Damaged(num_images=6, image_size=(32, 32)), defer_errors=True)
    assert [len(batch) for batch in batches] == [3, 3, 3, 3]
    failed = [batch for batch in batches if isinstance(batch, FailedBatch)]
    assert failed
    assert all("data.skip_unreadable=true" in str(batch.error) for batch in failed)
