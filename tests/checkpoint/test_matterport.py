"""Importing pytorch-mask-rcnn's weights: its own layers, and the same predictions folded into ordinary ones."""

from functools import partial
from pathlib import Path

import pytest
import torch
from reference_weights import reference_weights
from torch.nn import functional as F

from detkit.checkpoint.formats import choose
from detkit.checkpoint.formats.matterport import EPS, MatterportImporter
from detkit.experiment import load_experiment
from detkit.layers import NORMS, ConvNorm

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BOX, MASK, RPN = "roi_heads.box_head", "roi_heads.mask_head", "proposal_generator.head"


@pytest.fixture
def state():
    return reference_weights()


@pytest.fixture
def native(state):
    return MatterportImporter().convert(state, {}).model


@pytest.fixture
def folded(state):
    return MatterportImporter(mode="folded").convert(state, {}).model


@pytest.fixture
def wanted(monkeypatch):
    monkeypatch.setenv("DETKIT_DATASETS", "datasets")

    def of(config, *overrides):
        exp = load_experiment(CONFIGS / config, overrides)
        with torch.device("meta"):
            return {n: t.shape for n, t in exp.build_model(num_classes=3).state_dict().items()}

    return of


def theirs(state, conv, norm, x, **options):
    """pytorch-mask-rcnn's convolution and batch norm in evaluation."""
    x = F.conv2d(x, state[f"{conv}.weight"], state[f"{conv}.bias"], **options)
    parts = (state[f"{norm}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts, eps=EPS)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_the_port_is_recognised(state):
    assert isinstance(choose(state), MatterportImporter)


def test_every_tensor_is_accounted_for(state):
    for mode in ("native", "folded"):
        found = MatterportImporter(mode=mode).convert(state, {})
        used = {name for ours in found.model for name in found.origin.get(ours, ours).split(" + ")}
        assert used | set(found.unused) == set(state), mode
        assert set(found.origin) <= set(found.model)
        assert set(found.changes) <= set(found.model)
        assert not any(name.endswith(tuple(state)) for name in found.model), "no name of pytorch-mask-rcnn's is left"
    assert all(name.endswith("num_batches_tracked") for name in found.unused)


def test_rows_of_classes(state, native):
    scores = state["classifier.linear_class.weight"]
    assert torch.equal(native[f"{BOX}.cls_score.weight"], scores[[1, 2, 3, 0]])
    assert torch.equal(native[f"{MASK}.predictor.bias"], state["mask.conv5.bias"][1:])
    deltas = state["classifier.linear_bbox.bias"].reshape(4, 4)  # class, (dy, dx, dh, dw)
    for ours, column in enumerate((1, 0, 3, 2)):
        assert torch.equal(native[f"{BOX}.bbox_pred.bias"].reshape(3, 4)[:, ours], deltas[1:, column])


def test_rows_of_anchors(state, native, folded):
    theirs = state["rpn.conv_bbox.weight"].reshape(3, 4, 16)
    for model in (native, folded):
        ours = model[f"{RPN}.anchor_deltas.weight"].reshape(3, 4, 16)
        assert torch.equal(ours, theirs[:, [1, 0, 3, 2]])
    assert torch.equal(native[f"{RPN}.class_logits.weight"], state["rpn.conv_class.weight"])


def test_one_logit_an_anchor_has_the_probability_of_two(state, native, folded):
    x = torch.randn(2, 16, 5, 6, generator=torch.Generator().manual_seed(1))
    pairs = F.conv2d(x, state["rpn.conv_class.weight"], state["rpn.conv_class.bias"])
    foreground = pairs.unflatten(1, (3, 2)).softmax(dim=2)[:, :, 1]
    logit = F.conv2d(x, folded[f"{RPN}.objectness.weight"], folded[f"{RPN}.objectness.bias"])
    close(logit.sigmoid(), foreground)
    assert f"{RPN}.class_logits.weight" not in folded


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize(
    ("conv", "bn", "ours"),
    [
        ("fpn.C1.0", "fpn.C1.1", "backbone.stem.conv1"),
        ("fpn.C2.1.conv2", "fpn.C2.1.bn2", "backbone.res2.1.conv2"),
        ("fpn.C5.0.downsample.0", "fpn.C5.0.downsample.1", "backbone.res5.0.shortcut"),
    ],
)
def test_the_backbones_layers_as_they_are_and_as_ordinary_ones(state, native, folded, conv, bn, ours, norm):
    weight = state[f"{conv}.weight"]
    x = torch.randn(2, weight.shape[1], 9, 9, generator=torch.Generator().manual_seed(1))
    expected = theirs(state, conv, bn, x, padding=weight.shape[2] // 2)
    options = {"in_channels": weight.shape[1], "out_channels": weight.shape[0], "kernel_size": weight.shape[2]}
    as_it_is, ordinary = {"bias": True, "norm": partial(NORMS.get(norm), eps=EPS)}, {"bias": False, "norm": norm}
    for model, particular in ((native, as_it_is), (folded, ordinary)):
        layer = ConvNorm(**options, **particular).eval()
        own = {name.removeprefix(f"{ours}."): t for name, t in model.items() if name.startswith(f"{ours}.")}
        own = {name: t for name, t in own.items() if name in layer.state_dict()}
        layer.load_state_dict(own)
        with torch.no_grad():
            close(layer(x), expected)


def test_the_box_head_as_fully_connected_layers(state, folded):
    x = torch.randn(5, 8, 7, 7, generator=torch.Generator().manual_seed(1))
    expected, actual = x, x.flatten(1)
    for i in range(2):
        expected = F.relu(theirs(state, f"classifier.conv{i + 1}", f"classifier.bn{i + 1}", expected))
        actual = F.relu(F.linear(actual, folded[f"{BOX}.fcs.{i}.weight"], folded[f"{BOX}.fcs.{i}.bias"]))
    close(actual, expected.flatten(1))
    assert not any(".convs." in name for name in folded if name.startswith(BOX))


def test_the_mask_head_without_norms(state, folded):
    x = torch.randn(2, 8, 14, 14, generator=torch.Generator().manual_seed(1))
    for i in range(4):
        weight, bias = folded[f"{MASK}.convs.{i}.weight"], folded[f"{MASK}.convs.{i}.bias"]
        close(F.conv2d(x, weight, bias, padding=1), theirs(state, f"mask.conv{i + 1}", f"mask.bn{i + 1}", x, padding=1))
    assert f"{MASK}.convs.0.norm.weight" not in folded


def test_a_part_comes_as_the_model_has_it(state, native, folded):
    sizes = {name: tensor.shape for name, tensor in native.items()}
    parts = {"backbone": "backbone.", "rpn": RPN, "box": BOX, "mask": MASK}
    for part, prefix in parts.items():
        mixed = {n: s for n, s in sizes.items() if not n.startswith(prefix) and not n.endswith("num_batches_tracked")}
        mixed |= {n: t.shape for n, t in folded.items() if n.startswith(prefix) and not n.endswith("tracked")}
        found = MatterportImporter().convert(state, mixed).model
        assert {n: t.shape for n, t in found.items()} == mixed, part
        for name, tensor in found.items():
            assert torch.equal(tensor, (folded if name.startswith(prefix) else native)[name]), name


def test_a_mask_head_with_norms_but_no_biases(state):
    kinds = ("weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    sought = {f"{MASK}.convs.{i}.{kind}": torch.Size() for i in range(4) for kind in kinds}
    found = MatterportImporter().convert(state, sought).model
    assert {name for name in found if name.startswith(f"{MASK}.convs")} == set(sought)
    layer = ConvNorm(8, 8, 3, norm="FrozenBN")
    layer.load_state_dict({n.removeprefix(f"{MASK}.convs.2."): t for n, t in found.items() if f"{MASK}.convs.2." in n})
    x = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        close(layer(x), theirs(state, "mask.conv3", "mask.bn3", x, padding=1))


def test_the_matterport_preset_is_the_ports_network(wanted):
    sought = wanted("matterport/mask_rcnn_R_50_FPN.yaml")
    found = {name for name in MatterportImporter().convert(reference_weights(), sought).model if ".res" not in name}
    assert found == {name for name in sought if ".res" not in name}


def test_an_ordinary_model_takes_the_port_folded(wanted):
    dims = "model.proposal_generator.head.conv_dims=[512]"
    sought = wanted("coco/mask_rcnn_R_50_FPN_1x.yaml", dims)
    found = {name for name in MatterportImporter().convert(reference_weights(), sought).model if ".res" not in name}
    assert found == {name for name in sought if ".res" not in name}


def test_a_damaged_file_without_some_tensors_is_still_read(state):
    for name in ("fpn.C2.0.conv1.bias", "classifier.bn1.running_var", "rpn.conv_class.bias"):
        del state[name]
    assert MatterportImporter(mode="folded").convert(state, {}).model
