"""Preprocessing: what a model makes of samples before its backbone, and what sizes its parts ask for."""

import dataclasses
import math
from functools import partial

import pytest
import torch
from small import sample, small_model
from torch.nn import functional as F

from detkit.experiment import load_experiment
from detkit.modeling import Preprocess
from detkit.modeling.input_resize import BilinearInputResize
from detkit.modeling.necks import FPN
from detkit.structures import CroppedMasks, Instances, PolygonMasks, Sample

C4 = "configs/coco/mask_rcnn_R_50_C4_1x.yaml"


def empty(height, width, channels=3):
    return Sample(torch.zeros(channels, height, width, dtype=torch.uint8), (height, width), 8, "a.png")


def test_images_are_normalised_and_padded_with_zeros():
    preprocess = Preprocess(size_divisibility=32)
    a, b = sample(60, 90), sample(33, 64)
    images = preprocess([a, b])
    assert images.tensor.shape == (2, 3, 64, 96)
    assert images.image_sizes == [(60, 90), (33, 64)]
    wanted = (a.image.float() - preprocess.pixel_mean) / preprocess.pixel_std
    torch.testing.assert_close(images.tensor[0, :, :60, :90], wanted)
    assert not images.tensor[1, :, 33:].any()
    assert images.tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("scale", "precision"), [(1.0, "single"), (255.0, "single"), (1.0, "double")], ids=["bytes", "0..1", "double"]
)
def test_pixels_undo_the_normalisation(order, scale, precision):
    preprocess = Preprocess(
        pixel_mean=(0.4, 0.5, 0.6),
        pixel_std=(0.2, 0.3, 1.0),
        pixel_scale=scale,
        pixel_precision=precision,
        channel_order=order,
    )
    image = sample().image
    batch = preprocess([Sample(image, (64, 96))]).tensor
    assert batch.dtype == torch.float32
    assert torch.equal(preprocess.pixels(batch[0]), image)
    assert preprocess.pixels(torch.full((3, 2, 2), 9999.0)).max() == 255


def test_channels_are_turned_before_the_mean_is_subtracted():
    options = {"pixel_mean": (1.0, 2.0, 3.0), "pixel_std": (1.0, 1.0, 1.0)}
    one = sample()
    turned = Sample(one.image.flip(0), one.original_size)
    assert torch.equal(
        Preprocess(**options, channel_order="BGR")([one]).tensor,
        Preprocess(**options, channel_order="RGB")([turned]).tensor,
    )


def test_sides_are_multiples_of_what_backbone_and_neck_ask_for():
    model = load_experiment(C4).build_model(3)
    assert model.neck is None
    assert model.preprocess([empty(33, 50)]).tensor.shape[2:] == (48, 64)
    given = load_experiment(C4, ["model.preprocess.size_divisibility=1"]).build_model(3)
    assert given.preprocess([empty(33, 50)]).tensor.shape[2:] == (33, 50)
    assert small_model().preprocess([empty(33, 50)]).tensor.shape[2:] == (64, 64)
    neck = partial(FPN, out_channels=16)(small_model().backbone.output_shape)
    neck.size_divisibility = 8
    preprocess, backbone = Preprocess(), small_model().backbone
    preprocess.adapt_to(backbone, neck)
    assert preprocess([empty(33, 50)]).tensor.shape[2:] == (64, 64)
    neck.size_divisibility = 24
    preprocess.adapt_to(backbone, neck)
    height, width = preprocess([empty(33, 50)]).tensor.shape[2:]
    assert height == width == math.lcm(32, 24)


def test_a_square_is_padded_to_where_a_part_asks_for_one():
    neck = partial(FPN, out_channels=16)(small_model().backbone.output_shape)
    neck.square_size = 128
    preprocess = Preprocess()
    preprocess.adapt_to(small_model().backbone, neck)
    images = preprocess([empty(33, 50), empty(128, 20)])
    assert images.tensor.shape[2:] == (128, 128)
    with pytest.raises(ValueError, match="squares of 128"):
        preprocess([empty(33, 129)])


def test_targets_are_in_the_pixels_of_the_batch():
    one = sample(64, 96)
    preprocess = Preprocess(resize=partial(BilinearInputResize, short_edge=(128,)))
    images, (target,) = preprocess.with_targets([one])
    assert images.image_sizes == [(128, 192)] == [target.image_size]
    torch.testing.assert_close(target.boxes.tensor, one.target.boxes.tensor * 2)
    assert torch.equal(preprocess([one]).tensor, images.tensor)


KINDS = {
    "bitmaps": (PolygonMasks.bitmaps, 1.0),
    "cropped": (CroppedMasks.around, 1.0),
    "mini": (CroppedMasks.mini, 0.85),
    "polygons": (lambda masks: masks, 0.85),
}
"""What makes them, and how much they agree at least with whole bitmaps that are resized as torch does it."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 96), (110, 100)])
def test_masks_of_every_kind_follow_an_image_that_the_model_resizes(kind, size):
    outlines = [[[6.0, 9, 45, 15, 24, 54]], [[0.0, 0, 27, 0, 27, 27, 0, 27], [36.0, 6, 60, 6, 60, 24, 36, 24]]]
    polygons, (make, agreement) = PolygonMasks(outlines, size), KINDS[kind]
    target = Instances(size, boxes=polygons.boxes(), classes=torch.tensor([0, 1]), masks=make(polygons))
    given = dataclasses.replace(empty(*size), target=target)
    preprocess = Preprocess(resize=partial(BilinearInputResize, short_edge=(80,)))
    images, (moved,) = preprocess.with_targets([given])
    assert moved.masks.image_size == images.image_sizes[0]
    wanted = F.interpolate(polygons.bitmaps().tensor[None].float(), images.image_sizes[0])[0].bool()
    masks = moved.masks.bitmaps().tensor
    assert (masks & wanted).sum() >= agreement * (masks | wanted).sum()


class Maps(list):
    """A field of a user's own, of a map for each object."""

    def transform(self, transform):
        return Maps(transform.label_map(values) for values in self)


@pytest.mark.parametrize("size", [(7, 23), (40, 40), (333, 97), (57, 33)])
def test_maps_get_the_pixels_that_torch_takes(size):
    numbers, first = torch.arange(57 * 33).reshape(57, 33), 2**24  # float32 has no odd numbers from there on
    resize = BilinearInputResize(short_edge=(min(size),), max_size=max(size))
    image, target = resize(torch.zeros(3, 57, 33), Instances((57, 33), ids=Maps([first + numbers])), training=False)
    wanted = first + F.interpolate(numbers[None, None].float(), image.shape[-2:])[0, 0].long()
    assert torch.equal(target.ids[0], wanted)


def test_wrong_samples_and_options_are_named():
    with pytest.raises(ValueError, match=r"image 8 a\.png has 1 channels, the model expects 3"):
        Preprocess()([empty(8, 8, channels=1)])
    with pytest.raises(ValueError, match=r"needs targets, and image 8 a\.png"):
        Preprocess().with_targets([empty(8, 8)])
    for options, words in (
        ({"pixel_mean": (1.0,)}, "1 values of pixel_mean"),
        ({"pixel_mean": (1.0,), "pixel_std": (1.0,), "channel_order": "BGR"}, "BGR"),
        ({"pixel_scale": 0.0}, "pixel_scale"),
        ({"size_divisibility": 0}, "size_divisibility"),
    ):
        with pytest.raises(ValueError, match=words):
            Preprocess(**options)


def test_options_that_stood_in_the_model_are_moved(caplog):
    old = load_experiment(C4, ["model.pixel_std=[2.0, 3.0, 4.0]", "model.channels_last=true"])
    assert (
        old.tree
        == load_experiment(
            C4, ["model.preprocess.pixel_std=[2.0, 3.0, 4.0]", "model.preprocess.channels_last=true"]
        ).tree
    )
    assert "'model.preprocess.pixel_std'" in caplog.text
