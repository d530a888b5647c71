import numpy as np
import pytest
import torch

from detkit.data import Record, ResizeAndPad, read_image
from detkit.structures import BitMasks, Boxes, Instances


def record(height, width, image=None):
    image = np.full((height, width, 3), 200, np.uint8) if image is None else image
    masks = np.zeros((1, height, width), bool)
    masks[0, height // 4 : height // 2, width // 4 : width // 2] = True
    bitmaps = BitMasks(masks)
    zero = torch.zeros(1, dtype=torch.int64)
    fields = {"classes": zero, "crowd": zero.bool(), "annotation_ids": zero, "masks": bitmaps}
    return Record(image, 1, "", (height, width), Instances((height, width), boxes=bitmaps.boxes(), **fields))


def pad(height, width, **options):
    return ResizeAndPad(**options)(record(height, width), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("size", "options", "padded", "region"),
    [
        # 800 / 427 would make the width 1199: the longer side decides
        ((427, 640), {}, (1024, 1024), (0, 170, 1024, 853)),
        ((640, 427), {}, (1024, 1024), (170, 0, 853, 1024)),
        # up to the shorter side of 800
        ((400, 450), {}, (1024, 1024), (62, 112, 962, 912)),
        # larger than the shorter side, and it fits: not scaled down to 800
        ((900, 1000), {}, (1024, 1024), (12, 62, 1012, 962)),
        ((3000, 1500), {}, (1024, 1024), (256, 0, 768, 1024)),
        # an odd pixel of padding goes right and below
        ((101, 100), {"min_size": 0, "max_size": 128}, (128, 128), (14, 13, 114, 114)),
        ((100, 100), {"min_size": 0, "max_size": 512, "min_scale": 2.5}, (512, 512), (131, 131, 381, 381)),
        ((100, 300), {"min_size": 0, "max_size": 512, "min_scale": 2.5}, (512, 512), (0, 170, 512, 341)),
        # no limit to the longer side here
        ((427, 640), {"mode": "pad64", "min_size": 832}, (832, 1280), (16, 0, 1263, 832)),
        ((700, 1000), {"mode": "pad64", "min_size": 64}, (704, 1024), (12, 2, 1012, 702)),
        ((128, 192), {"mode": "pad64", "min_size": 64}, (128, 192), (0, 0, 192, 128)),
        ((128, 192), {"mode": "pad64", "min_size": 64, "min_scale": 2}, (256, 384), (0, 0, 384, 256)),
    ],
)
def test_sizes_and_valid_regions(size, options, padded, region):
    out = pad(*size, **options)
    assert out.image.shape == (*padded, 3)
    assert out.valid_region == region
    assert out.original_size == size
    assert out.objects.masks.image_size == padded
    x1, y1, x2, y2 = region
    assert (out.image[y1:y2, x1:x2] == 200).all()
    assert out.image.sum(dtype=np.int64) == 200 * 3 * (y2 - y1) * (x2 - x1), "the padding is 0"
    scaled = record(*size).objects.boxes.numpy() * ([(x2 - x1) / size[1], (y2 - y1) / size[0]] * 2)
    assert np.allclose(out.objects.boxes, scaled + [x1, y1, x1, y1], atol=1e-3)
    assert (out.objects.masks.boxes() - out.objects.boxes).abs().max() <= 1


def test_mode_none_changes_nothing():
    before = record(77, 33)
    assert ResizeAndPad(mode="none")(before, np.random.default_rng(0)) is before


def test_pad_value():
    out = pad(100, 50, min_size=0, max_size=128, pad_value=124)
    assert (out.image[:, :39] == 124).all()
    assert (out.image[:14] == 124).all()


def test_nothing_is_dropped_and_boxes_stay_as_annotated():
    before = record(90, 120)
    boxes = Boxes([[100.25, 80.5, 120.0, 90.0]])  # other than its mask, and on the rim
    before = before.with_objects(before.objects.with_fields(boxes=boxes))
    out = ResizeAndPad(min_size=0, max_size=128)(before, np.random.default_rng(0))
    assert out.objects.boxes.tolist() == [[104.25, 99.5, 124, 109]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_size": 1000}, "max_size: mode square needs a multiple of 64, got 1000; take 1024"),
        ({"mode": "pad64"}, "min_size: mode pad64 needs a multiple of 64, got 800; take 768"),
        ({"min_size": -1}, "no negative min_size"),
        ({"pad_value": 256}, "0..255"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        ResizeAndPad(**options)


def test_input_of_the_reference(shared_data):
    """What pytorch-mask-rcnn computed for a photograph: its valid region, and its input with the mean subtracted."""
    file = shared_data.parent / "reference/parity/pmr_mask_rcnn_R_101.npz"
    if not file.is_file():
        pytest.skip(f"no fixture at {file}")
    expected = np.load(file)
    image = read_image(str(shared_data / "coco_mini/val2017/000000229997.jpg"))
    out = ResizeAndPad(min_size=448, max_size=640)(record(*image.shape[:2], image), np.random.default_rng(0))
    y1, x1, y2, x2 = expected["window"].tolist()
    assert out.valid_region == (x1, y1, x2, y2)
    pixels = out.image.astype(np.float32) - np.array([123.7, 116.8, 103.9], np.float32)
    assert np.abs(pixels.transpose(2, 0, 1)[:, ::37, ::41] - expected["input_sample"]).max() < 1e-4
