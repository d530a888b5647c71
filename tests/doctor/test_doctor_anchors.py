"""The best anchor of a box by the grid equals that of a search through all anchors; what none reaches is named."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from detkit.doctor import CheckContext, run_checks
from detkit.doctor.anchors import suggested_sizes
from detkit.doctor.grid import best_iou, grid_of
from detkit.doctor.input_boxes import input_boxes

GENERATOR = "model.proposal_generator.anchor_generator"


@pytest.mark.parametrize(
    "options",
    [
        [],
        [f"{GENERATOR}.offset=0.5", f"{GENERATOR}.aspect_ratios=[0.3, 1.0]"],
        [f"{GENERATOR}.sizes=[[9, 17], [24, 31], [48, 60], [96, 110], [160, 170]]", f"{GENERATOR}.order=ratio"],
        ["model.proposal_generator.head={name: SoftmaxRPNHead, anchor_stride: 2}", f"{GENERATOR}.rounded=true"],
    ],
)
def test_the_nearest_point_of_the_grid_has_the_best_anchor(files, options):
    model = files.experiment(*options).build_model(2)
    height, width = size = (128, 192)
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(-5, [width, height], (300, 2)), rng.uniform(1, 150, (300, 2))
    boxes = np.concatenate([corners, np.minimum(corners + sides, [width, height])], 1)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    head = model.proposal_generator.head
    features = model.eval().features(type("Images", (), {"tensor": torch.zeros(1, 3, *size)}))
    objectness, _ = head([features[name] for name in model.proposal_generator.in_features])
    anchors = torch.cat([a.tensor for a in model.proposal_generator.anchor_generator(objectness, size)])
    every = box_iou(torch.from_numpy(boxes), anchors.double()).amax(1).numpy()
    ours = best_iou(boxes, np.tile(size, (len(boxes), 1)), grid_of(model, model.proposal_generator, size))
    np.testing.assert_allclose(ours, every, atol=3e-6)  # anchors are float32


def test_objects_out_of_reach_are_named_with_sizes_that_would_reach_them(files):
    sizes = "[[60], [70], [80], [90], [100]]"
    findings = files.findings(f"{GENERATOR}.sizes={sizes}", model=True, quick=True)
    (found,) = [f for f in findings if f.check == "AnchorsReachObjects"]
    assert found.severity == "error", "all are smaller than the smallest anchor"
    assert found.count == 24  # triangles of 20 to 24 pixels, and squares of 24 x 20
    assert "annotation 10 " in " ".join(found.examples)
    assert "20 x 20, IoU 0.11" in " ".join(found.examples)
    assert "16 to 32" in found.detail
    wanted = found.fix.split("sizes=")[1].split(" would")[0]
    assert "would leave 0.0%" in found.fix
    assert not [
        f for f in files.findings(f"{GENERATOR}.sizes={wanted}", model=True) if f.check == "AnchorsReachObjects"
    ]


@pytest.mark.parametrize(
    ("sizes", "severity"),
    [
        ("[[2], [3], [4], [5], [6]]", "error"),
        ("[[8], [10], [11], [80], [90]]", "warning"),
        ("[[64], [65], [66], [67], [68]]", "error"),
    ],
)
def test_anchors_that_are_all_larger_or_all_smaller_than_every_object_are_an_error(files, sizes, severity):
    for quick in (True, False):
        findings = files.findings(f"{GENERATOR}.sizes={sizes}", model=True, quick=quick)
        assert [f.severity for f in findings if f.check == "AnchorsReachObjects"] == [severity]


def test_sizes_are_those_after_augmentations_and_the_models_own_resizing(files):
    half = "data.train_augmentations=[{name: Resize, size: [32, 32]}]"
    for options, factor in (
        ([half], 0.5),
        (["model.preprocess.resize={name: BilinearInputResize, short_edge: [128]}"], 2),
    ):
        context = CheckContext(files.experiment("data.train_augmentations=[]", *options)).load()
        found = input_boxes(context, context.train, 100)
        np.testing.assert_allclose(found.boxes, context.train.objects.boxes[found.rows] * factor, rtol=1e-6)
        assert (found.sizes == 64 * factor).all()


def test_without_low_quality_matches_the_upper_threshold_counts(files):
    options = (
        "model.proposal_generator.matcher={background_thresh: 0.3, foreground_thresh: 0.7, allow_low_quality: false}"
    )
    lenient = files.findings(f"{GENERATOR}.sizes=[[12], [28], [48], [96], [160]]", model=True)
    strict = files.findings(f"{GENERATOR}.sizes=[[12], [28], [48], [96], [160]]", options, model=True)
    assert not [f for f in lenient if f.check == "AnchorsReachObjects"]
    assert [f.severity for f in strict if f.check == "AnchorsReachObjects"] == ["warning"]


def test_looking_draws_nothing_from_the_global_generators(files):
    context = CheckContext(
        files.experiment("model.preprocess.resize={name: BilinearInputResize, short_edge: [96, 128]}")
    ).load()
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    run_checks(context)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_a_histogram_as_picture(files, tmp_path):
    context = CheckContext(files.experiment())
    context.histogram = str(tmp_path / "anchors.png")
    run_checks(context.load())
    assert (tmp_path / "anchors.png").read_bytes().startswith(b"\x89PNG")


def test_suggested_sizes_are_where_the_objects_are():
    sides = np.repeat([10.0, 50.0, 200.0], [500, 20, 300]) * np.random.default_rng(0).uniform(0.95, 1.05, 820)
    boxes = np.stack([sides * 0, sides * 0, sides, sides], 1)
    assert suggested_sizes(boxes, 3) == pytest.approx([10, 50, 200], rel=0.05)
