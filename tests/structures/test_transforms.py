import dataclasses

import numpy as np
import pytest
import torch

from detkit.structures import (
    BitMasks,
    Boxes,
    Compose,
    CropAndPad,
    Flip,
    ImageInfo,
    Instances,
    PolygonMasks,
    ProjectiveTransform,
    Resize,
    Warp,
)

H, W = 40, 60
TURN = ProjectiveTransform((H, W), (70, 80), [[0.9, -0.4, 25], [0.35, 0.9, 4], [0.001, 0.0005, 1]])


def waves():
    y, x = np.mgrid[:H, :W] + 0.5
    return Warp(np.stack([2 * np.sin(y / 9), 1.5 * np.cos(x / 11)], -1))


EXACT = [
    Flip((H, W)),
    Flip((H, W), "vertical"),
    CropAndPad((H, W), 7, 3, 20, 30, 9),
    CropAndPad((H, W), -5, -6, 60, 90, 9),
    CropAndPad((H, W), 50, -6, 20, 20),
    CropAndPad((H, W), 500, 300, 20, 20),
]
ALL = [
    *EXACT,
    Resize((H, W), (77, 31)),
    TURN,
    waves(),
    Compose([Flip((H, W)), Resize((H, W), (80, 90)), CropAndPad((80, 90), 5, 6, 100, 70)]),
]


def named(transform):
    return type(transform).__name__


def points(n=50):
    return np.random.default_rng(0).uniform((3, 3), (W - 3, H - 3), (n, 2))


def pixels(channels=3):
    return np.random.default_rng(1).integers(0, 256, (H, W, channels), np.uint8)


@pytest.mark.parametrize("transform", ALL, ids=named)
def test_the_inverse_takes_points_back(transform):
    inverse = transform.inverse()
    assert (inverse.input_size, inverse.output_size) == (transform.output_size, transform.input_size)
    np.testing.assert_allclose(inverse.coords(transform.coords(points())), points(), atol=0.02)


@pytest.mark.parametrize("transform", ALL, ids=named)
def test_arrays_and_tensors_of_any_shape_and_type_go_alike(transform):
    array = transform.coords(points(12).reshape(3, 4, 2))
    tensor = transform.coords(torch.from_numpy(points(12).reshape(3, 4, 2)))
    np.testing.assert_array_equal(array, tensor.numpy())
    single = transform.coords(torch.from_numpy(points(12)).float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, array.reshape(-1, 2), atol=1e-3)
    if transform.matrix is not None:
        flat = np.column_stack([points(12), np.ones(12)]) @ transform.matrix.T
        np.testing.assert_allclose(flat[:, :2] / flat[:, 2:], array.reshape(-1, 2), atol=1e-9)


@pytest.mark.parametrize("transform", EXACT, ids=named)
def test_special_ways_give_what_the_general_one_gives(transform):
    general = ProjectiveTransform((H, W), transform.output_size, transform.matrix, transform.fill)
    image, labels = pixels(), np.arange(H * W).reshape(H, W)
    np.testing.assert_array_equal(transform.image(image), general.image(image))
    np.testing.assert_array_equal(transform.label_map(labels, -1), general.label_map(labels, -1))
    assert transform.region() == general.region()
    assert transform.region((10, 5, 20, 30)) == general.region((10, 5, 20, 30))
    assert (transform.cuts, transform.reverses, transform.keeps_boxes) == (general.cuts, general.reverses, True)


@pytest.mark.parametrize("transform", ALL, ids=named)
def test_labels_of_arrays_and_tensors_and_the_image_stay_in_register(transform):
    y, x = np.mgrid[:H, :W]
    labels = ((x // 12 + y // 10) % 2).astype(np.int64)
    moved = transform.label_map(labels, -1)
    assert moved.shape == transform.output_size
    assert moved.dtype == np.int64
    stack = torch.from_numpy(np.stack([labels, 1 - labels])).bool()
    both = transform.label_map(stack)
    assert torch.equal(both[0], torch.from_numpy(moved == 1))
    assert torch.equal(both[1], torch.from_numpy(moved == 0))
    image = transform.image(np.repeat(labels[:, :, None] * 200, 3, 2).astype(np.uint8))
    assert image.shape == (*moved.shape, 3)
    assert image.dtype == np.uint8
    inside = moved >= 0
    assert inside.any() == (transform != EXACT[-1])
    if inside.any():
        assert ((image[:, :, 0] >= 100) == (moved == 1))[inside].mean() > 0.93


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("transform", ALL, ids=named)
def test_images_of_any_number_of_channels(transform, channels):
    image = pixels(channels)
    out = transform.image(image)
    assert out.shape == (*transform.output_size, channels)
    alone = transform.image(np.ascontiguousarray(np.repeat(image[:, :, :1], 3, 2)))
    np.testing.assert_array_equal(out[:, :, 0], alone[:, :, 0])


@pytest.mark.parametrize("transform", ALL, ids=named)
def test_boxes_lie_around_what_was_in_them(transform):
    boxes = Boxes([[10.0, 8, 40, 30], [0, 0, W, H], [20, 20, 20.5, 39]])
    whole, cut = boxes.outlines(transform), boxes.transform(transform)
    share = torch.rand(3, 200, 2, generator=torch.Generator().manual_seed(0))
    inside = boxes[:, None, :2] + share * (boxes[:, None, 2:] - boxes[:, None, :2])
    moved = transform.coords(inside)
    assert (moved >= whole[:, None, :2] - 0.35).all()  # a warp bends the sides between the points that are looked at
    assert (moved <= whole[:, None, 2:] + 0.35).all()
    height, width = transform.output_size
    assert torch.equal(cut.clip((height, width)).tensor, cut.tensor) or not transform.cuts
    if not transform.cuts:
        assert torch.equal(cut.tensor, whole.tensor)


@pytest.mark.parametrize("transform", ALL, ids=named)
def test_polygons_stay_polygons_and_cover_what_bitmaps_cover(transform):
    masks = PolygonMasks([[[5, 5, 45, 9, 30, 35]], [[30, 2, 58, 2, 58, 30, 50, 38]], []], (H, W))
    polygons, bitmaps = masks.transform(transform), masks.bitmaps().transform(transform)
    assert type(polygons) is PolygonMasks
    assert type(bitmaps) is BitMasks
    assert polygons.image_size == bitmaps.image_size == transform.output_size
    for one, two in zip(polygons.bitmaps(), bitmaps):
        assert (one ^ two).sum() < 30 or (one & two).sum() / (one | two).sum() > 0.9
    assert torch.equal(polygons.nonempty(), polygons.areas() > 0)


def test_composition_is_one_after_the_other():
    steps = [Flip((H, W)), TURN, CropAndPad((70, 80), -4, 10, 50, 90)]
    whole = Compose([steps[0], Compose(steps[1:])])
    assert whole.steps == tuple(steps)
    image, labels, region, coords = pixels(), np.arange(H * W).reshape(H, W), (3, 4, 50, 30), points()
    objects = Instances(
        (H, W),
        info=ImageInfo(region),
        boxes=Boxes([[10, 10, 30, 30]]),
        masks=PolygonMasks([[[9, 9, 30, 9, 9, 30]]], (H, W)),
    )
    moved = objects.transform(whole)
    for step in steps:
        image, labels, coords, region = (
            step.image(image),
            step.label_map(labels),
            step.coords(coords),
            step.region(region),
        )
        objects = objects.transform(step)
    np.testing.assert_array_equal(whole.image(pixels()), image)
    np.testing.assert_array_equal(whole.label_map(np.arange(H * W).reshape(H, W)), labels)
    np.testing.assert_array_equal(whole.coords(points()), coords)
    assert whole.region((3, 4, 50, 30)) == region == moved.valid_region
    assert torch.equal(moved.boxes.tensor, objects.boxes.tensor)
    np.testing.assert_array_equal(moved.masks.polygons[0][0], objects.masks.polygons[0][0])
    assert (whole.cuts, whole.reverses, Compose([steps[0], steps[0]]).is_identity) == (True, True, True)
    with pytest.raises(ValueError, match="at least one"):
        Compose([])
    with pytest.raises(ValueError, match=r"takes \(70, 80\), the one before it gives \(40, 60\)"):
        Compose([steps[0], steps[2]])


def test_they_are_values():
    assert Resize((H, W), (3, 4)) == Resize((H, W), (3, 4)) != Resize((H, W), (4, 3))
    assert ProjectiveTransform((H, W), (70, 80), np.array(TURN.rows)) == TURN
    assert len({Compose([TURN]), Compose((TURN,))}) == 1
    assert Resize((H, W), (H, W)).is_identity
    assert not CropAndPad((H, W), 0, 0, H, W + 1).is_identity
    with pytest.raises(dataclasses.FrozenInstanceError):
        TURN.fill = 3


def test_a_field_without_transform_stays_and_one_with_it_follows():
    class Heading:
        def __init__(self, degrees):
            self.degrees = degrees

        def __len__(self):
            return len(self.degrees)

        def transform(self, transform):
            return Heading([-d if transform.reverses else d for d in self.degrees])

    objects = Instances((H, W), heading=Heading([10, 20]), weight=torch.tensor([1.0, 2]))
    moved = objects.transform(Flip((H, W)))
    assert moved.heading.degrees == [-10, -20]
    assert moved.weight is objects.weight
    assert objects.heading.degrees == [10, 20]
