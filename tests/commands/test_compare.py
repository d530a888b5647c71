"""detkit compare: equal is ok and 0; what is wrong is named by its stage and gives 1; mistakes give 2."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from detkit import command_line
from detkit.checkpoint import Checkpointer, export_state, load_weights
from detkit.commands import compare as compare_command
from detkit.comparisons.fixtures import read_fixture
from detkit.comparisons.images import as_sample, read_images
from detkit.comparisons.measure import mask_difference, set_difference
from detkit.comparisons.report import Difference, Report, Row
from detkit.comparisons.tie_breaking import TieBreaking
from detkit.comparisons.torchvision_reference import build_torchvision, published_norm_eps
from detkit.comparisons.weights import calibrate, weights_by_name
from detkit.data import Shapes
from detkit.experiment import load_experiment
from detkit.modeling.mask_pasters import GridSampleMaskPaster
from detkit.registry import DataError
from detkit.structures import Boxes, Instances

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
BOX = "model.roi_heads.box_head"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    shapes = Shapes(num_images=2, image_size=(120, 160), seed=3)
    for index in range(2):
        Image.fromarray(shapes[index].image[: 120 - 20 * index]).save(folder / f"{index}.png")
    return [folder / f"{index}.png" for index in range(2)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory, images):
    """torchvision's small model with five classes, and its file."""
    torch.manual_seed(0)
    reference = build_torchvision(SMALL, 5)
    image = torch.from_numpy(np.array(Image.open(images[0]))).permute(2, 0, 1) / 255
    calibrate(reference, image, 0)
    path = tmp_path_factory.mktemp("weights") / "theirs.pth"
    torch.save(reference.state_dict(), path)
    return path


@pytest.fixture
def compare(capsys, tmp_path):
    """Runs the tool; gives what it said and, unless it refused, the rows by their stage. code None: 0 or 1."""

    def run(reference, *argv, code=0):
        out = tmp_path / "report.json"
        out.unlink(missing_ok=True)
        words = ["--reference", reference, *map(str, argv), "--json", str(out)]
        assert command_line.run(lambda: compare_command.main(words)) in ((0, 1) if code is None else (code,))
        captured = capsys.readouterr()
        if code == 2:
            return captured.err, {}
        rows = json.loads(out.read_text())["rows"]
        return captured.out, {row["stage"]: row for row in rows}

    return run


def wrong(rows):
    return [stage for stage, row in rows.items() if row["verdict"] == "DIFFERS"]


def test_the_same_weights_give_the_same_at_every_stage(compare, weights, images):
    said, rows = compare(f"torchvision:{SMALL}", weights, *images, "--batch-size", 2)
    assert "the same as torchvision's" in said
    assert list(rows) == [
        *("input", "features p5", "features p5_2", "features p6", "proposals", "class scores", "box deltas", "boxes"),
        *("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"),
    ]
    assert {row["verdict"] for row in rows.values()} == {"ok"}
    assert rows["boxes"]["isolated"]["count"] > 20, "nothing was compared"
    assert all(row["isolated"]["largest"] >= 0 for stage, row in rows.items() if stage != "input")


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (f"{BOX}.pooler.aligned=true", ["class scores", "box deltas", "loss_cls", "loss_box_reg"]),
        (
            "model.proposal_generator.anchor_generator.aspect_ratios=[1.0,0.5,2.0]",
            ["proposals", "loss_rpn_cls", "loss_rpn_loc"],
        ),
        ("model.backbone.norm_eps=0.01", ["features p5", "features p5_2", "features p6"]),
        ("model.preprocess.pixel_mean=[0.4,0.4,0.4]", ["input"]),
        (f"{BOX}.detection.nms_thresh=0.3", ["boxes"]),
    ],
)
def test_what_is_wrong_is_named_and_what_follows_inherits(compare, weights, images, change, stages):
    said, rows = compare(f"torchvision:{SMALL}", weights, images[0], "--set", change, code=1)
    assert wrong(rows) == stages
    assert f"the first stage that computes something else is {stages[0]}" in said
    assert rows["boxes"]["verdict"] in ("DIFFERS", "inherits")


def test_a_wrong_mask_paster_is_named_with_random_weights_and_settings_of_both_sides(compare, images):
    argv = ("random", images[0], "--short-edge", 64, "--max-size", 96, "--seed", 2)
    change = ("--set", "model.mask_paster.name=GridSampleMaskPaster")
    _, rows = compare("torchvision:maskrcnn_resnet50_fpn", *argv, *change, code=1)
    assert wrong(rows) == ["masks"]
    assert {row["verdict"] for stage, row in rows.items() if stage != "masks"} == {"ok"}
    assert "loss_mask" in rows


def test_a_checkpoint_of_detkit_brings_its_config(compare, weights, images, pytestconfig, tmp_path):
    config = pytestconfig.rootpath / "configs/torchvision/faster_rcnn_mobilenet_v3_large_320_FPN.yaml"
    right, broken = load_experiment(config), load_experiment(config, [f"{BOX}.pooler.sampling_ratio=1"])
    model = right.build_model(5)
    load_weights(model, weights)
    for name, exp in (("right", right), ("broken", broken)):
        Checkpointer(tmp_path).save(name, model, config=exp.tree)
    _, rows = compare(f"torchvision:{SMALL}", tmp_path / "right.pth", images[1])
    assert rows["loss_cls"]["verdict"] == "ok"
    _, rows = compare(f"torchvision:{SMALL}", tmp_path / "broken.pth", images[1], code=1)
    assert "class scores" in wrong(rows)


def test_real_annotations(compare, weights, images, tmp_path):
    boxes = [[10, 10, 60, 50], [70.5, 40.25, 50, 60]]
    content = {
        "images": [{"id": 7, "file_name": images[0].name, "height": 120, "width": 160}],
        "categories": [{"id": 3, "name": "a"}, {"id": 9, "name": "b"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": (3, 9)[i], "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    argv = (f"torchvision:{SMALL}", weights, images[0])
    _, real = compare(*argv, "--annotations", path)
    assert real["loss_cls"]["verdict"] == "ok"
    said, _ = compare(*argv, images[1], "--annotations", path, code=2)
    assert "list no image named 1.png" in said


def test_mistakes_have_a_message(compare, weights, images, tmp_path):
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "foreign.pth")
    (tmp_path / "no.json").write_text("{}")
    np.savez(tmp_path / "no.npz", a=np.zeros(1))
    image = images[0]
    for argv, words in (
        (("torchvision:maskrcnn", weights, image), "there is no torchvision:maskrcnn here"),
        (("torchvision:retinanet_resnet50_fpn", weights, image), "two stages with boxes and masks"),
        ((f"torchvision:{SMALL}", tmp_path / "gone.pth", image), "there is no such file"),
        ((f"torchvision:{SMALL}", tmp_path / "foreign.pth", image), "has no class scores"),
        (("torchvision:fasterrcnn_resnet50_fpn", weights, image), "does not take these weights"),
        ((f"torchvision:{SMALL}", weights, tmp_path / "gone.png"), "gone.png"),
        ((f"torchvision:{SMALL}", weights, image, "--set", "model.nack=1"), "nack"),
        ((tmp_path / "gone.json", "fixture", image), "cannot be read as a fixture"),
        ((tmp_path / "no.json", "fixture", image), "is no fixture"),
        ((unnamed_fixture(tmp_path), "fixture", image), "give detkit's by --config-file FILE"),
    ):
        said, _ = compare(str(argv[0]), *argv[1:], code=2)
        assert words in said
        assert "Traceback" not in said


@pytest.mark.parametrize("option", ["--seed", "--batch-size", "--short-edge"])
def test_options_that_a_fixture_has_no_use_for_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        compare_command.main(["--reference", "a.json", "fixture", "a.png", option, "3"])
    assert f"{option}: a fixture has its own settings" in capsys.readouterr().err


def instances(boxes, scores, classes=None):
    classes = torch.zeros(len(boxes), dtype=torch.long) if classes is None else torch.tensor(classes)
    return Instances((100, 100), boxes=Boxes(torch.tensor(boxes)), scores=torch.tensor(scores), classes=classes)


def test_boxes_are_compared_as_sets():
    boxes = [[0.0, 0, 10, 10], [20.0, 0, 30, 10], [20.0, 20, 30, 30]]
    ours, theirs = instances(boxes, [0.9, 0.5, 0.5]), instances([boxes[2], boxes[0], boxes[1]], [0.5, 0.9, 0.5])
    assert set_difference("boxes", ours, theirs) == Difference(0.0, 0, 6)
    other = instances(boxes, [0.9, 0.5, 0.5], [0, 0, 1])
    assert set_difference("boxes", ours, other).unmatched == 2
    assert set_difference("boxes", ours, ours[:0]) == Difference(0.0, 3, 3)


def test_a_tie_is_excused_and_an_error_that_looks_like_one_is_not():
    one, other, far = [0.0, 0, 10, 10], [0.0, 0, 10, 12], [50.0, 50, 60, 60]
    candidates = instances([one, other, far], [0.5, 0.500001, 0.4])
    ours, theirs = candidates[[0, 2]], candidates[[1, 2]]
    rules = TieBreaking(nms_thresh=0.5, limit=10)
    assert rules.differences(ours, theirs, candidates)[1].within(0.01)
    assert not rules.differences(ours, theirs, candidates[1:])[1].within(0.01), "the reference did not compute ours"
    worse = instances([one, other, far], [0.5, 0.6, 0.4])
    assert not rules.differences(worse[[0, 2]], worse[[1, 2]], worse)[1].within(0.01), "the better should win"
    assert not TieBreaking(0.99, 10).differences(ours, theirs, candidates)[1].within(0.01), "they do not overlap enough"
    assert TieBreaking(0.5, 1).differences(candidates[[0]], candidates[[1]], candidates)[1].tied == 2


def test_pixels_at_the_threshold_are_undecided():
    probs = torch.full((1, 4, 4), 0.9)
    probs[0, 0, 0] = 0.5
    box, truth = Boxes(torch.tensor([[0.0, 0, 4, 4]])), torch.ones(1, 4, 4, dtype=torch.bool)
    truth[0, 0, 0] = False
    assert mask_difference(probs, box, truth, GridSampleMaskPaster()).largest == 0
    truth[0, 1, 1] = False
    assert mask_difference(probs, box, truth, GridSampleMaskPaster()).largest == pytest.approx(1 / 15)


def test_a_row_says_whose_fault_it_is():
    good, bad = Difference(0.0), Difference(1.0)
    verdicts = {pair: Row("boxes", "pixels", 0.1, *pair).verdict for pair in ((good, good), (bad, good), (bad, bad))}
    assert list(verdicts.values()) == ["ok", "inherits", "DIFFERS"]
    assert Row("input", "absolute", 0.1, bad).verdict == "DIFFERS"
    assert Row("input", "absolute", 0.1, Difference(float("nan"))).verdict == "DIFFERS"
    report = Report("it", (Row("boxes", "pixels", 0.1, bad, good),))
    assert not report.equal
    assert "end to end" in report.verdict
    assert not Report("it", ()).equal


def test_torchvisions_published_files_are_known():
    assert published_norm_eps("maskrcnn_resnet50_fpn", "a/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth") == 0
    assert published_norm_eps("maskrcnn_resnet50_fpn", "mine.pth") is None
    assert published_norm_eps(SMALL, "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth") is None


def test_weights_by_name_follow_from_the_name_alone():
    shapes = {"a.weight": [4, 8], "a.bias": [4], "n.running_var": [4], "n.num_batches_tracked": []}
    state = weights_by_name(shapes, [("a.w", 2.0)])
    again = weights_by_name({"a.weight": [4, 8]})
    assert torch.equal(state["a.weight"], 2 * again["a.weight"])
    assert (state["n.running_var"] >= 1).all()
    assert state["n.num_batches_tracked"].dtype == torch.long


def unnamed_fixture(folder):
    (folder / "unnamed.json").write_text(json.dumps({"state_dict": {}, "reference": {"which": "fcos"}}))
    np.savez(folder / "unnamed.npz", scores=np.zeros(0))
    return folder / "unnamed.json"


DENSE = (
    "model.backbone={depth: 18, width: 8, norm: BN}",
    "model.neck={out_channels: 16}",
    "model.head.num_conv=1",
    "data.test_augmentations=[]",
)


@pytest.mark.parametrize("config", ["retinanet_R_50_FPN_1x", "fcos_R_50_FPN_1x"])
def test_a_fixture_of_a_one_stage_detector(compare, tmp_path, config):
    noise = np.random.default_rng(0).integers(0, 256, (128, 160, 3)).astype(np.uint8)  # padding would have equal scores
    image = tmp_path / "image.png"
    Image.fromarray(noise).save(image)
    limits = ("model.head.score_thresh=0.2", "model.head.max_detections=10000")
    model = load_experiment(f"coco/{config}", [*DENSE, *limits]).build_model(3).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in export_state(model.state_dict(), "detectron2").items()}
    gains = [
        ["stem.conv1.weight", 0.05],
        ["(neck|fpn_.*|top_block.*|subnet.*|cls_score).weight", 3.0],
        ["cls_score.bias", 50.0],
    ]
    load_weights(model, weights_by_name(shapes, gains))
    record = read_images([image])[0]
    sample = as_sample(record, (), bitmaps=False)
    with torch.no_grad():
        found = model([sample])[0].instances
        maps = model.features(model.preprocess([sample]))
    assert len(found) > 5
    arrays = {"pred_boxes": found.boxes.tensor, "scores": found.scores, "pred_classes": found.classes}
    arrays |= {f"feature_{level}": values[0, :8, ::7, ::7] for level, values in maps.items()}
    np.savez(tmp_path / "dense.npz", **{name: np.asarray(value) for name, value in arrays.items()})
    reference = {"config": f"COCO-Detection/{config}.yaml", "height": 128, "width": 160, "image": image.name}
    (tmp_path / "dense.json").write_text(json.dumps({"state_dict": shapes, "gains": gains, "reference": reference}))
    settings = [word for override in DENSE for word in ("--set", override)]
    said, rows = compare(str(tmp_path / "dense.json"), "fixture", image, *settings)
    assert "the same as Detectron2" in said
    assert "no losses: they need" in said
    assert {"features p3", "class scores", "boxes"} <= rows.keys()
    _, rows = compare(
        str(tmp_path / "dense.json"), "fixture", image, *settings, "--set", "model.head.nms_thresh=0.2", code=1
    )
    assert wrong(rows) == ["class scores", "boxes"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["d2_retinanet_R_50_FPN_1x", "d2_fcos"])
def test_fixtures_of_one_stage_detectors(compare, shared_data, name):
    path = shared_data.parent / "reference" / "parity" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"no fixture at {path}")
    coco = shared_data / "coco_mini"
    argv = ["fixture", coco / "val2017" / "000000229997.jpg"]
    argv += ["--annotations", coco / "annotations" / "instances_val2017.json"]
    argv += ["--config-file", "coco/fcos_R_50_FPN_1x"] if "fcos" in name else []
    _, rows = compare(str(path), *argv, code=None)
    assert not wrong(rows)
    assert {"features p3", "class scores", "boxes"} <= rows.keys()
    assert sum(stage.startswith("loss_") for stage in rows) == (3 if "fcos" in name else 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["d2_mask_rcnn_R_50_FPN_1x", "pmr_mask_rcnn_R_101"])
def test_fixtures_of_the_references(compare, shared_data, name, tmp_path):
    path = shared_data.parent / "reference" / "parity" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"no fixture at {path}")
    coco, fixture = shared_data / "coco_mini", read_fixture(path)
    torch.save(fixture.weights(), tmp_path / "weights.pth")
    argv = [tmp_path / "weights.pth", coco / "val2017" / "000000229997.jpg"]
    if fixture.kind == "Detectron2":
        argv += ["--annotations", coco / "annotations" / "instances_val2017.json"]
    # The number of threads decides about pytorch-mask-rcnn's last digit: a row may inherit a little, none may differ.
    _, rows = compare(str(path), *argv, code=None)
    assert not wrong(rows)
    assert {"features p2", "proposals", "class scores", "boxes", "masks", "mask areas"} <= set(rows)
    assert all(row["end_to_end"]["largest"] <= 2 * row["tolerance"] for row in rows.values() if row["end_to_end"])
    assert ("loss_mask" in rows) == (fixture.kind == "Detectron2")

    change = "aligned=false" if fixture.kind == "Detectron2" else "level_rounding=floor"
    _, rows = compare(str(path), "fixture", *argv[1:], "--set", f"{BOX}.pooler.{change}", code=1)
    assert wrong(rows)[0] == "class scores"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04half", b"\x93NUMPY"])
def test_damaged_arrays_of_a_fixture_are_named(content, tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as a fixture"):
        read_fixture(tmp_path / "a.json")
