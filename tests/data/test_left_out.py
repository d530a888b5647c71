"""Every object of the file reaches the target, or is counted with its reason."""

import logging

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch

from detkit.data import Augmentation, Mapper, TableDataset, train_loader
from detkit.data.augmentations import CopyPaste, RandomCrop, RandomFlip, ResizeShortestEdge
from detkit.data.left_out import CROWD, NO_BOX, NO_PIXEL
from detkit.data.samplers import ShuffleSampler
from detkit.structures import Sample

H, W = 60, 80
CROSSED = [[10, 10, 30, 30, 30, 10, 10, 30]]
EMPTY = {"size": [H, W], "counts": [H * W]}


def row(id_, x=10, side=20, **other):
    square = [[x, 10, x + side, 10, x + side, 10 + side, x, 10 + side]]
    entry = {"id": id_, "image_id": 1, "category_id": 1, "bbox": [x, 10, side, side], "segmentation": square}
    return {**entry, **other}


class Rows(TableDataset):
    def __init__(self, *rows, images=1):
        copies = [{**r, "id": r["id"] + 100 * i, "image_id": i + 1} for i in range(images) for r in rows]
        sizes = [{"id": i + 1, "file_name": f"{i}.png", "height": H, "width": W} for i in range(images)]
        super().__init__(sizes, copies, {1: "a"})

    def read_image(self, index):
        return np.zeros((H, W, 3), np.uint8)


class DropsOdd(Augmentation):
    """A user's own, which says nothing of what it leaves out."""

    def __call__(self, record, rng, others=()):
        return record.select(record.objects.annotation_ids % 2 == 0)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmap", "mini"])
def test_objects_are_in_the_target_or_left_out_for_a_reason(mask_format):
    data = Rows(
        *(row(1), row(2, iscrowd=1), row(3, segmentation=CROSSED), row(4, segmentation=EMPTY), row(5, x=50)),
        row(6, bbox=[3, 3, 2e-5, 9]),
    )
    steps = [RandomFlip(prob=0.0), ResizeShortestEdge(short_edge=(20,))]
    sample = Mapper(data, steps, mask_format=mask_format)(0, 0)
    assert sample.target.annotation_ids.tolist() == [1, 3, 5], "of 3 the corners are crossed: it has pixels"
    assert {reason: [*ids] for reason, ids in sample.left_out.items()} == {CROWD: [2], NO_PIXEL: [4], NO_BOX: [6]}
    area = coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(CROSSED, H, W)))
    assert Mapper(data, mask_format="bitmap")(0, 0).target.masks[1].sum() == area


def test_what_an_augmentation_drops_is_counted_by_its_name():
    data = Rows(row(1), row(2), row(3, x=55), row(4, x=55), images=2)
    sample = Mapper(data, [DropsOdd(), RandomCrop(size=(H, 40), kind="absolute")], seed=1)(0, 0)
    assert sample.left_out["cut away or covered by DropsOdd"] == [1, 3]
    there, cut = sample.target.annotation_ids.tolist(), sample.left_out.get("cut away or covered by RandomCrop", [])
    assert sorted([*there, *cut]) == [2, 4]


def test_what_is_covered_is_counted_and_what_comes_from_other_images_is_no_loss():
    data = Rows(row(1), images=2)
    sample = Mapper(data, [CopyPaste(prob=1.0)])(0, 0)
    assert sample.target.annotation_ids.tolist() == [101], "it lies in the same place"
    assert {reason: [*ids] for reason, ids in sample.left_out.items()} == {"cut away or covered by CopyPaste": [1]}


@pytest.mark.parametrize("workers", [0, 1])
def test_the_training_log_counts_them_at_first_and_with_each_tenfold(caplog, workers):
    data = Rows(row(1), row(2, segmentation=EMPTY), row(3, iscrowd=1), images=30)
    loader = train_loader(data, Mapper(data), ShuffleSampler(data, 2, 0, 0, 1), workers)
    with caplog.at_level(logging.INFO):
        for _, batch in zip(range(15), loader):
            assert all(isinstance(sample, Sample) and len(sample.target) == 1 for sample in batch)
    lines = [message for message in caplog.messages if "left out of the loss" in message]
    assert len(lines) == 2
    assert "4 of 6 objects: 2 crowds, which are no targets (first: annotation" in lines[0]
    assert "2 with a mask without a pixel (first: annotation" in lines[0]
    assert "40 of 60 objects" in lines[1]


def test_a_sample_without_losses_says_nothing(caplog):
    data = Rows(row(1), images=2)
    loader = train_loader(data, Mapper(data), ShuffleSampler(data, 2, 0, 0, 1))
    with caplog.at_level(logging.INFO):
        (sample, _) = next(iter(loader))
    assert sample.left_out == {}
    assert "left out" not in caplog.text
    assert torch.equal(sample.target.classes, torch.tensor([0]))
