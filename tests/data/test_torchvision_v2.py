"""Transforms of torchvision as augmentations: everything follows the image that torchvision makes."""

import numpy as np
import pytest
import torch
import torchvision
from torchvision.transforms import v2

from detkit.data import Record, TorchvisionV2
from detkit.registry import ConfigError
from detkit.structures import BitMasks, Instances, Keypoints, PolygonMasks

H, W = 90, 120

GEOMETRIC = [
    ("RandomHorizontalFlip", {"p": 1.0}),
    ("RandomVerticalFlip", {"p": 1.0}),
    ("Resize", {"size": [60, 200]}),
    ("Resize", {"size": 130, "max_size": 150}),
    ("ScaleJitter", {"target_size": [100, 100], "scale_range": [0.5, 1.5]}),
    ("RandomCrop", {"size": [60, 70]}),
    ("RandomCrop", {"size": [150, 170], "pad_if_needed": True}),
    ("CenterCrop", {"size": [70, 140]}),
    ("RandomResizedCrop", {"size": [64, 96], "scale": [0.4, 1.0]}),
    ("RandomIoUCrop", {}),
    ("RandomZoomOut", {"p": 1.0}),
    ("Pad", {"padding": [3, 5, 9, 2]}),
    ("RandomRotation", {"degrees": 30, "interpolation": "bilinear"}),
    ("RandomRotation", {"degrees": 40, "expand": True}),
    ("RandomAffine", {"degrees": 20, "translate": [0.1, 0.1], "scale": [0.7, 1.3], "shear": 10}),
    ("RandomPerspective", {"p": 1.0, "distortion_scale": 0.4}),
    ("ElasticTransform", {"alpha": 80.0}),
]
PHOTOMETRIC = [
    ("ColorJitter", {"brightness": 0.5, "hue": 0.2}),
    ("GaussianBlur", {"kernel_size": 5}),
    *([] if torchvision.__version__.startswith("0.21") else [("GaussianNoise", {})]),  # which took floats only
    ("JPEG", {"quality": [20, 60]}),
    ("RandomPosterize", {"bits": 3, "p": 1.0}),
    ("RandomGrayscale", {"p": 1.0}),
    ("RandomErasing", {"p": 1.0}),
    ("RandomPhotometricDistort", {}),
]


def named(case):
    return case[0] if isinstance(case, tuple) else None


def record(kind="polygons", seed=0):
    """Four objects, and a map; the image's first channel shows the first object, and so does the map."""
    rng = np.random.default_rng(seed)
    polygons = []
    for _ in range(4):
        angle, radius = np.sort(rng.uniform(0, 2 * np.pi, 14)), rng.uniform(14, 26) * rng.uniform(0.7, 1, 14)
        centre = rng.uniform((35, 30), (W - 35, H - 30))
        polygons.append([centre + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)])
    masks = PolygonMasks(polygons, (H, W))
    bitmaps = masks.bitmaps()
    image = rng.integers(0, 40, (H, W, 3), np.uint8)
    image[:, :, 0] = np.where(bitmaps[0].numpy(), 255, 0)
    points = torch.from_numpy(np.stack([p[0] for p in polygons]))
    objects = Instances(
        (H, W),
        boxes=(masks if kind == "polygons" else bitmaps).boxes(),
        classes=torch.arange(4),
        crowd=torch.zeros(4, dtype=torch.bool),
        annotation_ids=torch.arange(10, 14),
        masks=masks if kind == "polygons" else bitmaps,
        keypoints=Keypoints(torch.nn.functional.pad(points, (0, 1), value=2.0)),
    )
    return Record(image, 1, "a.png", (H, W), objects, {"first": bitmaps[0].numpy().astype(np.int64)})


def iou(a, b):
    return float((a & b).sum() / max(1, (a | b).sum()))


@pytest.mark.parametrize("kind", ["polygons", "bitmaps"])
@pytest.mark.parametrize("case", GEOMETRIC, ids=named)
def test_objects_and_maps_follow_the_image(case, kind):
    augment = TorchvisionV2(transform=case[0], options=case[1])
    for seed in range(4):
        out = augment(record(kind, seed), np.random.default_rng(seed))
        objects = out.objects
        assert type(objects.masks) is (PolygonMasks if kind == "polygons" else BitMasks)
        assert out.maps["first"].shape == out.size == objects.image_size
        shown = out.image[:, :, 0] >= 128
        assert iou(out.maps["first"] == 1, shown) > 0.8
        if len(objects) and objects.annotation_ids[0] == 10 and shown.sum() > 100:
            assert iou(objects.masks.bitmaps()[0].numpy(), shown) > 0.8
        scale = max(1.0, out.size[0] / H, out.size[1] / W)
        assert (objects.masks.bitmaps().boxes() - objects.boxes).abs().max() <= 2.5 * scale, (
            "a thin corner has no pixel"
        )
        points, visible = objects.keypoints.tensor, objects.keypoints.visible()
        if kind == "polygons":  # they are the polygons' corners
            for row, polygons in enumerate(objects.masks.polygons):
                for x, y, _ in points[row][visible[row]].tolist():
                    assert np.abs(polygons[0] - [x, y]).max(1).min() < 0.1


@pytest.mark.parametrize("case", PHOTOMETRIC, ids=named)
def test_colours_change_and_nothing_else(case):
    before = record()
    out = TorchvisionV2(transform=case[0], options=case[1])(before, np.random.default_rng(0))
    assert (out.image != before.image).any()
    assert out.image.shape == before.image.shape
    assert out.objects is before.objects
    assert out.maps is before.maps


@pytest.mark.parametrize("case", [*GEOMETRIC, *PHOTOMETRIC], ids=named)
def test_randomness_comes_from_the_records_generator_and_leaves_torchs_alone(case):
    augment, again = (TorchvisionV2(transform=case[0], options=case[1]) for _ in range(2))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one = augment(record(), np.random.default_rng(7))
    assert torch.equal(torch.rand(2), expected)
    two = again(record(), np.random.default_rng(7))
    assert (one.image == two.image).all()
    assert one.objects.boxes.tolist() == two.objects.boxes.tolist()


def test_its_image_is_torchvisions_own():
    before = record()
    out = TorchvisionV2(transform="RandomAffine", options={"degrees": 20})(before, np.random.default_rng(5))
    seed = int(np.random.default_rng(5).integers(2**63))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        theirs = v2.RandomAffine(degrees=20)(torch.from_numpy(before.image).permute(2, 0, 1))
    assert (out.image == theirs.permute(1, 2, 0).numpy()).all()


def test_exact_maps_are_recovered_exactly():
    before, rng = record(), np.random.default_rng(0)
    flip = TorchvisionV2(transform="RandomHorizontalFlip", options={"p": 1.0}).transform(before, rng)
    assert flip.matrix.tolist() == [[-1, 0, W], [0, 1, 0], [0, 0, 1]]
    assert flip.reverses
    crop = TorchvisionV2(transform="CenterCrop", options={"size": [50, 60]}).transform(before, rng)
    assert crop.matrix.tolist() == [[1, 0, -30], [0, 1, -20], [0, 0, 1]]
    assert crop.cuts
    blur = TorchvisionV2(transform="GaussianBlur", options={"kernel_size": 3})
    assert blur.transform(before, rng).is_identity


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("RandomRotaton", {}, "has no transform 'RandomRotaton'. Did you mean 'RandomRotation'?"),
        ("functional", {}, "has no transform 'functional'"),
        ("RandomRotation", {"degree": 5}, "no option 'degree'. Did you mean 'degrees'?"),
        ("RandomRotation", {}, "RandomRotation: .* required .*'degrees'"),
        ("RandomRotation", {"degrees": -5}, "RandomRotation: "),
        ("RandomRotation", {"degrees": 5, "interpolation": "cubist"}, "'cubist'"),
    ],
)
def test_wrong_names_and_options_are_refused(name, options, words):
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        TorchvisionV2(transform=name, options=options)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "ToDtype",
            {"dtype": torch.float32},
            r"ToDtype gives torch.float32 .*; expected one image of 3 channels, uint8",
        ),
        ("FiveCrop", {"size": 20}, "FiveCrop"),
        ("RandAugment", {}, "RandAugment"),
    ],
)
def test_what_is_no_augmentation_of_one_image_is_refused(name, options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        TorchvisionV2(transform=name, options=options)(record(), np.random.default_rng(0))
