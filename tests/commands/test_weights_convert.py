"""detkit weights convert: files from one framework to another, and what it says of each tensor."""

import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import detection, resnet50

import detkit
from detkit import command_line
from detkit.checkpoint import Checkpointer, load_weights, read_checkpoint
from detkit.checkpoint.formats import choose
from detkit.checkpoint.formats.torchvision import TorchvisionImporter
from detkit.commands import weights_convert
from detkit.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "checkpoint"))
from reference_weights import reference_weights  # noqa: E402  (weights that two folders of tests use)

CONFIG = ROOT / "configs" / "torchvision" / "mask_rcnn_R_50_FPN.yaml"


@pytest.fixture
def convert(capsys, monkeypatch):
    monkeypatch.setenv("DETKIT_DATASETS", "datasets")

    def run(*argv, code=0):
        assert command_line.run(lambda: weights_convert.main([str(arg) for arg in argv])) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return run


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    return detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5).state_dict()


@pytest.fixture
def theirs(reference, tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save(reference, path)
    return path


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def without_counters(state):
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def test_torchvision_to_detkit_for_a_config(convert, theirs, tmp_path):
    text = convert(theirs, tmp_path / "ours.pth", "--config-file", CONFIG)
    content = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert content.keys() == {"model", "class_names", "config", "detkit_version"}
    assert content["detkit_version"] == detkit.__version__
    exp = load_experiment(CONFIG)
    assert content["config"]["model"] == exp.tree["model"]
    model = exp.build_model(num_classes=4)
    assert load_weights(model, tmp_path / "ours.pth", strict=True).format == ""
    assert (tmp_path / "ours.pth").stat().st_size < theirs.stat().st_size * 1.01, "no hidden rows are written"
    assert f"theirs.pth (torchvision) to detkit: {len(content['model'])} tensors" in text
    assert "renamed" in text
    assert "the background's 4 rows dropped" in text
    assert "not used (" in text


def test_back_to_torchvision(convert, theirs, reference, tmp_path):
    convert(theirs, tmp_path / "ours.pth", "--config-file", CONFIG)
    text = convert(tmp_path / "ours.pth", tmp_path / "back.pth", "--to", "torchvision", "--list")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == without_counters(reference).keys()
    detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5).load_state_dict(back)
    again, before = (TorchvisionImporter().convert(s, {}).model for s in (back, without_counters(reference)))
    assert equal(again, before)
    assert "reordered  roi_heads.box_head.cls_score.weight -> roi_heads.box_predictor.cls_score.weight: rows" in text
    assert len(text.splitlines()) == len(back) + 1


def test_every_tensor_is_listed(convert, theirs, reference, tmp_path):
    text = convert(theirs, tmp_path / "ours.pth", "--config-file", CONFIG, "--list")
    listed = {line[11:].split()[0].removesuffix(":") for line in text.splitlines()[:-1]}
    assert listed == set(reference)


@pytest.mark.parametrize("name", ["detectron2.pth", "detectron2.pkl"])
def test_detectron2_and_back(convert, theirs, reference, tmp_path, name):
    convert(theirs, tmp_path / name, "--to", "detectron2", "--config-file", CONFIG)
    written = read_checkpoint(tmp_path / name)
    assert "roi_heads.mask_head.mask_fcn1.weight" in written.model
    assert written.class_names is None
    convert(tmp_path / name, tmp_path / "ours.pth")
    state = torch.load(tmp_path / "ours.pth", weights_only=True)["model"]
    assert equal(state, TorchvisionImporter().convert(without_counters(reference), {}).model)


def test_half_precision_becomes_what_numpy_has(convert, theirs, tmp_path):
    state = torch.load(theirs, weights_only=True)
    half = {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()}
    torch.save(half, tmp_path / "half.pth")
    for name in ("d2.pth", "d2.pkl"):
        convert(tmp_path / "half.pth", tmp_path / name, "--to", "detectron2", "--config-file", CONFIG)
    tensors, arrays = (read_checkpoint(tmp_path / name).model for name in ("d2.pth", "d2.pkl"))
    assert all(torch.equal(arrays[name], value.float()) for name, value in tensors.items() if value.is_floating_point())


def test_the_seed_native_and_folded(convert, tmp_path):
    torch.save(reference_weights(), tmp_path / "reference.pth")
    convert(tmp_path / "reference.pth", tmp_path / "native.pth")
    text = convert(tmp_path / "reference.pth", tmp_path / "folded.pth", "--mode", "folded", "--list")
    native, folded = (read_checkpoint(tmp_path / f"{mode}.pth").model for mode in ("native", "folded"))
    assert "proposal_generator.head.class_logits.weight" in native
    assert "proposal_generator.head.objectness.weight" in folded
    line = next(line for line in text.splitlines() if "objectness.weight" in line)
    assert line.startswith("folded     rpn.conv_class.weight -> proposal_generator.head.objectness.weight: ")
    assert choose(native) is None
    assert choose(folded) is None


def test_class_names_from_a_file(convert, tmp_path):
    torch.save(reference_weights(num_classes=2), tmp_path / "reference.pth")
    (tmp_path / "names.txt").write_text("cat\n\ndog \n")
    convert(tmp_path / "reference.pth", tmp_path / "ours.pth", "--class-names", tmp_path / "names.txt")
    assert read_checkpoint(tmp_path / "ours.pth").class_names == ("cat", "dog")
    (tmp_path / "names.txt").write_text("cat\n")
    text = convert(tmp_path / "reference.pth", tmp_path / "two.pth", "--class-names", tmp_path / "names.txt", code=2)
    assert "has 1 names, and the weights have 2 classes" in text
    assert not (tmp_path / "two.pth").exists()
    with pytest.raises(SystemExit):
        convert("ours.pth", "theirs.pth", "--class-names", "names.txt", "--to", "torchvision")


def test_what_does_not_fit_is_said(convert, theirs, tmp_path):
    text = convert(theirs, tmp_path / "ours.pth", "--config-file", CONFIG, "--num-classes", 7, "--list")
    assert "skipped    roi_heads.box_predictor.cls_score.bias -> roi_heads.box_head.cls_score.bias: shape (5,)" in text
    text = convert(
        theirs, tmp_path / "ours.pth", "--config-file", CONFIG, "model.proposal_generator.head.conv_dims=[-1,-1]"
    )
    assert "missing (2)" in text
    assert "proposal_generator.head.convs.1.bias" in text
    text = convert(theirs, tmp_path / "ours.pth", "--config-file", CONFIG, "model.roi_heads.mask_head=null")
    assert "the model has no such part" in text


def test_names_of_the_model_that_look_like_a_wrappers_are_kept(convert, tmp_path):
    pytest.importorskip("timm", reason="pip install 'detkit[timm]'")
    vit = "model.backbone={name: TimmBackbone, model: test_vit, img_size: 160}"
    neck = "model.neck={name: SimpleFeaturePyramid, out_channels: 256}"
    model = load_experiment(CONFIG, [vit, neck]).build_model(num_classes=2)
    assert any(".model." in name for name in model.state_dict())
    path = Checkpointer(tmp_path).save("model_final", model)
    text = convert(path, tmp_path / "out.pth", "--config-file", CONFIG, vit, neck, "--num-classes", 2, "--list")
    assert all(line.startswith("kept") for line in text.splitlines()[:-1])
    assert equal(torch.load(tmp_path / "out.pth", weights_only=True)["model"], model.state_dict())


def test_a_part_that_the_file_has_nothing_of_is_refused_unless_it_is_a_network_alone(convert, theirs, tmp_path):
    convert(theirs, tmp_path / "ours.pth", "--config-file", CONFIG)
    state = read_checkpoint(tmp_path / "ours.pth").model
    torch.save({n: t for n, t in state.items() if not n.startswith("proposal_generator.")}, tmp_path / "no_rpn.pth")
    text = convert(tmp_path / "no_rpn.pth", tmp_path / "out.pth", "--config-file", CONFIG, code=2)
    assert "has nothing of a part of the model: proposal_generator." in text
    assert not (tmp_path / "out.pth").exists()
    torch.save(resnet50(weights=None).state_dict(), tmp_path / "network.pth")
    text = convert(tmp_path / "network.pth", tmp_path / "out.pth", "--config-file", CONFIG)
    assert "missing (" in text


def test_mistakes_have_a_message_and_write_nothing(convert, theirs, tmp_path):
    out = tmp_path / "out.pth"
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "foreign.pth")
    torch.save(reference_weights(), tmp_path / "reference.pth")
    cases = (
        ((tmp_path / "gone.pth", out), "there is no such file"),
        ((tmp_path / "foreign.pth", out), "is of no framework that detkit knows"),
        ((tmp_path / "foreign.pth", out, "--config-file", CONFIG), "not one of its tensors fits the model"),
        ((theirs, out, "--mode", "folded"), "has not the names of matterport"),
        ((tmp_path / "reference.pth", out, "--to", "detectron2"), "cannot be written in detectron2's layout"),
        ((theirs, tmp_path / "out.pkl"), "a .pkl is for Detectron2"),
        ((theirs, theirs), "would overwrite the weights"),
        ((theirs, out, "--config-file", CONFIG, "model.nack=1"), "nack"),
    )
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for argv, words in cases:
        text = convert(*argv, code=2)
        assert words in text
        assert "Traceback" not in text
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("argv", [("--num-classes", "3"), ("--config-file", CONFIG, "--mode", "native")])
def test_options_that_would_be_ignored_are_refused(argv, capsys):
    with pytest.raises(SystemExit):
        weights_convert.main(["in.pth", "out.pth", *map(str, argv)])
    assert "config" in capsys.readouterr().err
