import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from detkit.data import (
    ColorJitter,
    CopyPaste,
    FixedSizeCrop,
    OneOf,
    RandomCrop,
    RandomFlip,
    Record,
    Resize,
    ResizeAndPad,
    ResizeScale,
    ResizeShortestEdge,
)
from detkit.data.augmentations.resize import shortest_edge_size
from detkit.structures import BitMasks, CropAndPad, Instances, PolygonMasks

H, W = 90, 120

GEOMETRIC = [
    ResizeShortestEdge(short_edge=(70, 100, 130), max_size=160),
    ResizeShortestEdge(short_edge=(80, 200), max_size=1000, sample="range"),
    Resize(size=(100, 77)),
    ResizeScale(min_scale=0.6, max_scale=1.6, target_size=(100, 100)),
    FixedSizeCrop(size=(100, 80)),
    RandomFlip(prob=1.0),
    RandomFlip(prob=1.0, direction="vertical"),
    RandomCrop(size=(0.5, 0.7)),
    RandomCrop(size=(60, 70), kind="absolute"),
    RandomCrop(size=(50, 100), kind="absolute_range"),
    RandomCrop(size=(0.6, 0.6), kind="relative"),
    ResizeAndPad(min_size=110, max_size=192),
    ResizeAndPad(min_size=128, mode="pad64", pad_value=20),
]


def polygon(rng, n=11):
    angle = np.sort(rng.uniform(0, 2 * np.pi, n))
    radius = rng.uniform(12, 35) * rng.uniform(0.6, 1, n)
    center = rng.uniform(30, 60), rng.uniform(30, 90)
    return np.stack([center[1] + radius * np.cos(angle), center[0] + radius * np.sin(angle)], 1)


def record(kind, seed=0):
    """Four objects; the image's first channel shows the first one, so the image can be compared with its mask."""
    rng = np.random.default_rng(seed)
    masks = PolygonMasks([[np.clip(polygon(rng), 0, [W, H])] for _ in range(4)], (H, W))
    bitmaps = masks.bitmaps()
    image = rng.integers(0, 40, (H, W, 3), np.uint8)
    image[:, :, 0] = np.where(bitmaps[0].numpy(), 255, 0)
    objects = Instances(
        (H, W),
        boxes=(masks if kind == "polygons" else bitmaps).boxes(),
        classes=torch.arange(4),
        crowd=torch.zeros(4, dtype=torch.bool),
        annotation_ids=torch.arange(10, 14),
    )
    if kind != "none":
        objects = objects.with_fields(masks=masks if kind == "polygons" else bitmaps)
    return Record(image, 1, "a.png", (H, W), objects)


def crop(before, x, y, height, width, fill=0):
    return before.apply(CropAndPad(before.size, x, y, height, width, fill))


def iou(a, b):
    return float((a & b).sum() / max(1, (a | b).sum()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("augment", GEOMETRIC, ids=lambda a: type(a).__name__)
def test_augmenting_commutes_with_rasterising(augment, seed):
    a = augment(record("polygons", seed), np.random.default_rng(seed))
    b = augment(record("bitmaps", seed), np.random.default_rng(seed))
    assert (a.image == b.image).all()
    a, b = a.objects, b.objects
    assert isinstance(a.masks, PolygonMasks), "polygons stay polygons"
    assert a.masks.image_size == b.masks.image_size == a.image_size == b.image_size
    shared = np.intersect1d(a.annotation_ids, b.annotation_ids)
    assert len(shared) >= len(a) - 1  # a sliver may be left of one form only
    first, second = a.masks.bitmaps().numpy(), b.masks.numpy()
    for i in shared:
        one, two = first[a.annotation_ids == i][0], second[b.annotation_ids == i][0]
        assert iou(one, two) > 0.85 or (one ^ two).sum() < 30


@pytest.mark.parametrize("kind", ["polygons", "bitmaps"])
@pytest.mark.parametrize("augment", GEOMETRIC, ids=lambda a: type(a).__name__)
def test_image_boxes_and_masks_stay_in_register(augment, kind):
    out = augment(record(kind), np.random.default_rng(1))
    height, width = out.image.shape[:2]
    objects = out.objects
    bitmaps = objects.masks.bitmaps()
    if objects.annotation_ids[0] == 10:
        assert iou(bitmaps[0].numpy(), out.image[:, :, 0] >= 200) > 0.8
    assert (bitmaps.boxes().tensor - objects.boxes.tensor).abs().max() <= 1.6  # a pixel of rasterising, enlarged
    assert torch.equal(objects.boxes.clip((height, width)).tensor, objects.boxes.tensor)
    assert out.image.dtype == np.uint8


@pytest.mark.parametrize("augment", [*GEOMETRIC, ColorJitter()], ids=lambda a: type(a).__name__)
def test_valid_region_and_active_classes_travel(augment):
    """The second channel shows the valid region; the rest is padding."""
    region, active = (20, 10, 100, 77), np.array([True, False, True, True])
    image = record("none").image
    image[:, :, 1] = 0
    image[10:77, 20:100, 1] = 255
    before = dataclasses.replace(record("polygons"), image=image, valid_region=region, active_classes=active)
    for seed in range(4):
        out = augment(before, np.random.default_rng(seed))
        assert out.active_classes is active
        assert all(isinstance(side, int) for side in out.valid_region)
        shown = BitMasks(out.image[None, :, :, 1] > 140).boxes()[0]
        assert (shown - torch.tensor(out.valid_region)).abs().max() <= 1, "to the pixel, up to the resize's rounding"
    plain = augment(record("polygons"), np.random.default_rng(0))
    height, width = plain.image.shape[:2]
    if plain.valid_region is not None:
        assert plain.valid_region != (0, 0, width, height), "where nothing is padded, all of it is valid"


@pytest.mark.parametrize("augment", [*GEOMETRIC, ColorJitter(hue=0.1)], ids=lambda a: type(a).__name__)
def test_all_randomness_comes_from_the_generator(augment):
    before = record("polygons")
    torch.manual_seed(1)
    first = augment(before, np.random.default_rng(5))
    torch.manual_seed(2)
    np.random.seed(2)
    second = augment(record("polygons"), np.random.default_rng(5))
    assert (first.image == second.image).all()
    assert torch.equal(first.objects.boxes.tensor, second.objects.boxes.tensor)
    assert (before.image == record("polygons").image).all()  # the argument is not edited
    assert torch.equal(before.objects.boxes.tensor, record("polygons").objects.boxes.tensor)


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_flip_is_exact_and_its_own_inverse(direction):
    before, flip = record("bitmaps"), RandomFlip(prob=1.0, direction=direction)
    rng = np.random.default_rng(0)
    once = flip(before, rng)
    axis = 1 if direction == "horizontal" else 0
    assert (once.image == np.flip(before.image, axis)).all()
    assert (once.objects.masks.numpy() == np.flip(before.objects.masks.numpy(), axis + 1)).all()
    assert torch.equal(once.objects.boxes.tensor, once.objects.masks.boxes().tensor)
    twice = flip(once, rng)
    assert (twice.image == before.image).all()
    assert torch.equal(twice.objects.boxes.tensor, before.objects.boxes.tensor)
    assert RandomFlip(prob=0.0)(before, rng) is before


@pytest.mark.parametrize(
    ("size", "short", "limit", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((300, 1000), 800, 1333, (400, 1333)),
        ((500, 500), 640, 1333, (640, 640)),
        ((1, 1000), 800, 100, (1, 100)),
    ],
)
def test_shortest_edge_rounds_to_the_nearest_pixel(size, short, limit, expected):
    assert shortest_edge_size(size, short, limit) == expected


def test_resize_uses_pillows_bilinear_filter_for_any_number_of_channels():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (H, W, 3), np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((50, 40), Image.Resampling.BILINEAR))
    before = dataclasses.replace(record("none"), image=image)
    assert (Resize(size=(40, 50))(before, rng).image == expected).all()
    five = dataclasses.replace(before, image=np.concatenate([image, image[:, :, :2]], 2))
    out = Resize(size=(40, 50))(five, rng).image
    assert out.shape == (40, 50, 5)
    assert (out[:, :, 3] == expected[:, :, 0]).all()


def test_large_scale_jitter_gives_one_size_with_padding():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        out = record("polygons")
        for step in (ResizeScale(min_scale=0.1, max_scale=2.0, target_size=(96, 96)), FixedSizeCrop(size=(96, 96))):
            out = step(out, rng)
        assert out.image.shape == (96, 96, 3)
        assert out.objects.masks.image_size == (96, 96)
    small = ResizeScale(min_scale=0.5, max_scale=0.5, target_size=(96, 96))(record("polygons"), rng)
    assert small.image.shape == (36, 48, 3)
    padded = FixedSizeCrop(size=(96, 96), pad_value=7)(small, rng)
    assert (padded.image[36:] == 7).all()
    assert (padded.image[:, 48:] == 7).all()
    assert torch.equal(padded.objects.boxes.tensor, small.objects.boxes.tensor)
    assert padded.valid_region == (0, 0, 48, 36)
    cut = FixedSizeCrop(size=(20, 96), pad_value=None)(small, rng)
    assert cut.image.shape == (20, 48, 3), "what is smaller stays as it is"
    assert RandomFlip(prob=1.0)(padded, rng).valid_region == (48, 0, 96, 36)
    assert crop(padded, 50, 0, 20, 20).valid_region == (0, 0, 0, 20), "where all is padding, the valid region is empty"


def test_crop_drops_what_is_not_visible_and_shrinks_to_what_is():
    before = record("bitmaps")
    masks = torch.zeros(4, H, W, dtype=torch.bool)
    masks[0, 10:30, 10:50] = True
    masks[0, 30:60, 10:20] = True  # an L; the crop below sees its foot only
    masks[1, 70:80, 70:80] = True
    objects = before.objects.with_fields(masks=BitMasks(masks), boxes=BitMasks(masks).boxes())
    before = before.with_objects(objects).select(np.array([1, 1, 0, 0], bool))
    out = crop(before, 0, 40, 30, 60)
    assert out.objects.annotation_ids.tolist() == [10]
    assert out.objects.boxes.tolist() == [[10, 0, 20, 20]]
    without = crop(before.with_objects(before.objects.without("masks")), 0, 40, 30, 60)
    assert without.objects.boxes.tolist() == [[10, 0, 50, 20]]


def test_crop_beyond_the_image_pads():
    before = record("polygons")
    out = crop(before, -10, -20, H + 40, W + 30, 9)
    assert out.image.shape == (H + 40, W + 30, 3)
    assert (out.image[20 : 20 + H, 10 : 10 + W] == before.image).all()
    assert (out.image[:20] == 9).all()
    assert np.allclose(out.objects.boxes, before.objects.boxes + torch.tensor([10, 20, 10, 20]))
    assert len(crop(before, 500, 500, 20, 20).objects) == 0


def test_random_crop_sizes():
    sizes = {kind: set() for kind in ("relative", "relative_range", "absolute", "absolute_range")}
    options = {
        "relative": (0.5, 0.25),
        "relative_range": (0.5, 0.25),
        "absolute": (200, 30),
        "absolute_range": (20, 99),
    }
    rng = np.random.default_rng(0)
    for kind, found in sizes.items():
        augment = RandomCrop(size=options[kind], kind=kind)
        found.update(augment(record("none"), rng).image.shape[:2] for _ in range(30))
    assert sizes["relative"] == {(45, 30)}
    assert sizes["absolute"] == {(H, 30)}
    assert len(sizes["relative_range"]) > 10
    assert all(h >= 45 and w >= 30 for h, w in sizes["relative_range"])
    assert len(sizes["absolute_range"]) > 10
    assert all(20 <= h <= H and 20 <= w <= 99 for h, w in sizes["absolute_range"])


def test_color_jitter_changes_colours_only():
    before = record("polygons")
    out = ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)(before, np.random.default_rng(0))
    assert out.image.shape == before.image.shape
    assert (out.image != before.image).any()
    assert out.objects is before.objects
    nothing = ColorJitter(brightness=0, contrast=0, saturation=0)(before, np.random.default_rng(0))
    assert (nothing.image == before.image).all()
    assert ColorJitter(prob=0.0)(before, np.random.default_rng(0)) is before


def test_empty_images_pass_through_everything():
    empty = record("polygons").select(np.zeros(4, bool))
    assert len(record("polygons").select([]).objects) == 0, "no numbers choose as no bools do"
    for augment in [*GEOMETRIC, ColorJitter()]:
        out = augment(empty, np.random.default_rng(0))
        assert out.objects.boxes.shape == (0, 4)
        assert len(out.objects.masks) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: OneOf(choices=((CopyPaste(),), ())),
        lambda: ResizeShortestEdge(short_edge=()),
        lambda: Resize(size=(0, 5)),
        lambda: ResizeScale(min_scale=2.0, max_scale=1.0),
        lambda: FixedSizeCrop(pad_value=256),
        lambda: RandomFlip(prob=1.5),
        lambda: RandomCrop(size=(1.5, 0.5)),
        lambda: RandomCrop(size=(50, 20), kind="absolute_range"),
        lambda: RandomCrop(size=(0.5, 20), kind="absolute"),
        lambda: ColorJitter(hue=0.7),
    ],
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match=r"expected|expects|min_scale|pad_value|other images"):
        make()


def test_one_of_several_sequences_is_drawn():
    steps = OneOf(choices=((), (Resize(size=(30, 40)), RandomCrop(size=(10, 20), kind="absolute"))))
    sizes = [steps(record("polygons"), np.random.default_rng(seed)).size for seed in range(40)]
    assert set(sizes) == {record("polygons").size, (10, 20)}
    assert 10 < sizes.count((10, 20)) < 30


def test_a_transform_of_another_image_is_refused():
    with pytest.raises(ValueError, match=r"the transform takes an image of \(9, 9\)"):
        record("polygons").apply(CropAndPad((9, 9), 0, 0, 5, 5))
