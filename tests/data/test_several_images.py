"""Augmentations of several images: boxes, masks, keypoints, classes and ids stay together and right."""

import numpy as np
import pytest
import torch

from detkit.data import (
    AUGMENTATIONS,
    Augmentation,
    CopyPaste,
    Mapper,
    MixUp,
    Mosaic,
    RandomCrop,
    RandomFlip,
    Record,
    Shapes,
)
from detkit.structures import BitMasks, Instances, Keypoints, PolygonMasks

SEVERAL = [CopyPaste(prob=1.0), Mosaic(size=(100, 120)), MixUp(prob=1.0)]
KINDS = ["polygons", "bitmaps"]


def square(x, y, side):
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], float)


def record(first, size=(80, 100), kind="bitmaps", num=4, sides=(10, 25)):
    """A square in each quarter of the image. In the first channel an object of id i is 10 * i, its class is i % 5."""
    rng = np.random.default_rng(first)
    height, width = size
    image, ids = rng.integers(0, 5, (*size, 3), np.uint8), np.arange(first, first + num)
    corners = []
    for place in range(num):
        side = int(rng.integers(*sides))
        x, y = rng.integers(0, (width // 2 - side, height // 2 - side))
        corners.append(square(x + place % 2 * (width // 2), y + place // 2 * (height // 2), side))
    masks = PolygonMasks([[c] for c in corners], size)
    bitmaps = masks.bitmaps()
    for mask, index in zip(bitmaps.numpy(), ids):
        image[:, :, 0] = np.where(mask, 10 * index % 256, image[:, :, 0])
    centre = torch.from_numpy(np.stack([c.mean(0) for c in corners]))
    fields = {
        "boxes": (masks if kind == "polygons" else bitmaps).boxes(),
        "classes": torch.from_numpy(ids % 5),
        "crowd": torch.zeros(num, dtype=torch.bool),
        "annotation_ids": torch.from_numpy(ids),
        "masks": masks if kind == "polygons" else bitmaps,
        "keypoints": Keypoints(torch.nn.functional.pad(centre[:, None], (0, 1), value=2.0)),
    }
    objects = Instances(size, **fields)
    maps = {"labels": np.where(bitmaps.tensor.any(0).numpy(), 1, 0)}
    return Record(image, first, "", size, objects, maps)


def others(augment, kind="bitmaps"):
    return [record(7 + 5 * n, (90 + n, 70), kind) for n in range(augment.num_others)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("augment", SEVERAL, ids=lambda a: type(a).__name__)
def test_boxes_masks_keypoints_classes_and_ids_stay_together(augment, kind):
    from_others = 0
    for seed in range(6):
        out = augment(record(1, kind=kind), np.random.default_rng(seed), others(augment, kind))
        objects = out.objects
        assert objects.image_size == objects.masks.image_size == out.size
        assert out.maps["labels"].shape == out.size
        assert torch.equal(objects.classes, objects.annotation_ids % 5)
        assert (objects.masks.boxes().tensor - objects.boxes.tensor).abs().max() <= 1.6
        assert objects.boxes.nonempty().all()
        points = objects.keypoints.tensor[:, 0]
        for (x, y, visibility), (x1, y1, x2, y2) in zip(points.tolist(), objects.boxes.tolist()):
            assert visibility < 2 or (x1 - 0.5 <= x <= x2 + 0.5 and y1 - 0.5 <= y <= y2 + 0.5)
        from_others += int((objects.annotation_ids >= 7).sum())
    assert from_others >= 6


@pytest.mark.parametrize("augment", SEVERAL[:2], ids=lambda a: type(a).__name__)
def test_each_mask_shows_its_own_object(augment):
    for seed in range(6):
        out = augment(record(1), np.random.default_rng(seed), others(augment))
        for mask, index in zip(out.objects.masks.numpy(), out.objects.annotation_ids.tolist()):
            shown = out.image[:, :, 0][mask].astype(int)
            assert len(shown) < 40 or abs(np.median(shown) - 10 * index) <= 3, "but for a rim that resizing blends"


def test_pasted_objects_hide_what_is_behind_them():
    augment = CopyPaste(prob=1.0, max_objects=3)
    cut = dropped = 0
    for seed in range(30):
        before = record(1)
        other = record(7 + seed, before.size, sides=(18, 38))
        out = augment(before, np.random.default_rng(seed), [other])
        old, new = out.objects[out.objects.annotation_ids < 7], out.objects[out.objects.annotation_ids >= 7]
        assert 1 <= len(new) <= 3
        cover = new.masks.tensor.any(0)
        assert not (old.masks.tensor & cover).any()
        assert (out.image == np.where(cover[:, :, None], other.image, before.image)).all()
        assert (out.maps["labels"] == np.where(cover, other.maps["labels"], before.maps["labels"])).all()
        for i, index in enumerate(before.objects.annotation_ids.tolist()):
            left = before.objects.masks[i] & ~cover
            kept = old.annotation_ids == index
            assert bool(kept.any()) == bool(left.any()), "what is hidden wholly is dropped, and nothing else"
            if kept.any():
                assert torch.equal(old.masks.tensor[kept][0], left)
                assert torch.equal(old.boxes[kept].tensor, BitMasks(left[None]).boxes().tensor)
            cut += int(0 < left.sum() < before.objects.masks[i].sum())
            dropped += int(not left.any())
    assert cut > 5
    assert dropped > 0


def test_what_nothing_was_pasted_on_keeps_its_annotated_box():
    before, other = record(1, kind="polygons", num=1), record(7, num=1)
    loose = before.objects.with_fields(boxes=type(before.objects.boxes)([[0.25, 0.5, 99.5, 79.75]]))
    hidden = np.zeros(before.size, bool)
    assert before.with_objects(loose).covered(hidden).objects.boxes.tolist() == [[0.25, 0.5, 99.5, 79.75]]
    hidden[:, : int(before.objects.boxes[0, 0]) + 3] = True
    cut = before.with_objects(loose).covered(hidden).objects
    assert torch.equal(cut.boxes.tensor, cut.masks.boxes().tensor)
    assert other.covered(np.ones(other.size, bool)).objects.boxes.shape == (0, 4)


def test_covered_keypoints_are_labelled_but_not_visible():
    keypoints = Keypoints([[[2.5, 3.5, 2], [9.5, 3.5, 2], [0, 0, 0], [9.0, 3.0, 1]]])
    hidden = torch.zeros(12, 12, dtype=torch.bool)
    hidden[:, 8:] = True
    assert keypoints.covered(hidden).tensor[0, :, 2].tolist() == [2, 1, 0, 1]


def test_mosaic_has_four_tiles_without_padding():
    augment = Mosaic(size=(64, 96), centre=(0.5, 0.5))
    parts = [record(1), *others(augment)]
    for value, part in zip((50, 90, 130, 170), parts):
        part.image[:] = value
    out = augment(parts[0], np.random.default_rng(0), parts[1:])
    assert out.size == (64, 96)
    assert out.valid_region is None
    corners = out.image[[0, 0, 63, 63, 31, 31, 32, 32], [0, 95, 0, 95, 47, 48, 47, 48], 1]
    assert corners.tolist() == [50, 90, 130, 170] * 2


def test_mixup_blends_and_pads_what_does_not_fit():
    before, other = record(1), record(7, (80, 50))
    out = MixUp(weight=(0.25, 0.25), prob=1.0)(before, np.random.default_rng(0), [other])
    expected = np.floor(0.75 * before.image[:, :50] + 0.25 * other.image + 0.5)
    assert (out.image[:, :50] == expected).all()
    assert len(out.objects) == len(before.objects) + len(other.objects)
    assert (out.maps["labels"] == before.maps["labels"]).all()


def test_classes_that_both_label_are_active():
    active = [np.array([True, True, False]), np.array([True, False, True])]
    before, other = record(1), record(7, record(1).size)
    object.__setattr__(before, "active_classes", active[0])
    assert before.joined(other).active_classes.tolist() == active[0].tolist()
    object.__setattr__(other, "active_classes", active[1])
    assert before.joined(other).active_classes.tolist() == [True, False, False]
    assert record(1).joined(record(7, record(1).size)).active_classes is None


@pytest.fixture(scope="module")
def shapes():
    return Shapes(num_images=6, image_size=(64, 80), max_objects=4)


def same(a, b):
    fields = ("boxes", "classes", "annotation_ids")
    return torch.equal(a.image, b.image) and all(
        a.target.fields[f].tolist() == b.target.fields[f].tolist() for f in fields
    )


@pytest.mark.parametrize("augment", SEVERAL, ids=lambda a: type(a).__name__)
def test_seed_epoch_and_index_decide_in_whichever_process(shapes, augment):
    mapper = Mapper(shapes, [RandomFlip(), RandomCrop(size=(0.7, 0.7)), augment, augment, RandomFlip()], seed=4)
    again = Mapper(shapes, mapper.augmentations, seed=4)
    samples = [mapper(epoch, index) for epoch in range(2) for index in range(3)]
    torch.manual_seed(9)
    assert all(same(again(n // 3, n % 3), samples[n]) for n in reversed(range(6)))
    assert not same(samples[0], samples[3])


class Peek(Augmentation):
    """Says which other images it was given, looking at some of them only, in any order."""

    num_others = 3

    def __init__(self, order):
        super().__init__()
        self.order, self.seen = order, {}

    def __call__(self, record, rng, others=()):
        self.seen = {n: others[n] for n in self.order}
        self.drawn = rng.random()
        return record


def test_others_are_made_when_asked_for_and_depend_on_nothing_but_the_random_state(shapes):
    class Counting(RandomFlip):
        calls = 0

        def transform(self, record, rng):
            Counting.calls += 1
            return super().transform(record, rng)

    whole, one = Peek([2, 1, 0]), Peek([1])
    Mapper(shapes, [RandomCrop(size=(0.5, 0.5)), whole], seed=1)(0, 2)
    Mapper(shapes, [RandomCrop(size=(0.5, 0.5)), one], seed=1)(0, 2)
    assert (whole.seen[1].image == one.seen[1].image).all()
    assert whole.drawn == one.drawn
    assert all(other.image_id != 2 for other in whole.seen.values()), "another image than its own"
    assert all(other.size != (64, 80) for other in whole.seen.values()), "after the augmentations before"
    Mapper(shapes, [Counting(), Peek([])], seed=1)(0, 2)
    assert Counting.calls == 1, "nobody asked for another one"
    Mapper(shapes, [Counting(), Peek([0, 2])], seed=1)(0, 2)
    assert Counting.calls == 4


def test_a_record_without_masks_is_left_alone_or_joined_by_what_both_have():
    before = record(1)
    bare = before.with_objects(before.objects.without("masks", "keypoints"))
    assert CopyPaste(prob=1.0)(bare, np.random.default_rng(0), [record(7)]) is bare
    joined = MixUp(prob=1.0)(bare, np.random.default_rng(0), [record(7, before.size)])
    assert set(joined.objects.fields) == {"boxes", "classes", "crowd", "annotation_ids"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: CopyPaste(prob=2.0),
        lambda: CopyPaste(max_objects=0),
        lambda: Mosaic(centre=(0.7, 0.3)),
        lambda: Mosaic(size=(1, 9)),
        lambda: MixUp(weight=(0.5, 1.5)),
    ],
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


def test_they_are_registered():
    assert {"CopyPaste", "MixUp", "Mosaic"} <= set(AUGMENTATIONS.names())
