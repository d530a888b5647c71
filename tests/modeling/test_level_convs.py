"""Convolutions of dense heads: what the levels share, and what each has of its own."""

from functools import partial

import pytest
import torch
from small import sample
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import RetinaNetHead as TorchvisionHead

from detkit.checkpoint import export_state, load_weights
from detkit.experiment import load_experiment
from detkit.inference import optimized
from detkit.layers import BN, GN, FrozenBN, SyncBN, freeze
from detkit.modeling.dense_heads.level_convs import LevelBN, LevelConv
from detkit.solver import GroupRules, parameter_groups

SIZES = ((12, 10), (6, 5), (3, 3))


def maps(channels=8, shift=3.0):
    """Maps of three levels that differ in what they hold."""
    torch.manual_seed(0)
    return [(level + 1) * torch.randn(2, channels, *size) + shift * level for level, size in enumerate(SIZES)]


def small(head, norm):
    overrides = [f"model.head.norm={norm}", "model.head.num_conv=2", "model.neck.out_channels=16"]
    backbone = "{name: ResNet, depth: 18, width: 8, norm: BN, freeze_at: 0, out_features: [res3, res4, res5]}"
    torch.manual_seed(0)
    return load_experiment(f"coco/{head}_R_50_FPN_1x", [*overrides, f"model.backbone={backbone}"]).build_model(3)


@pytest.mark.parametrize("norm", [BN, SyncBN])
def test_each_level_is_normalised_by_itself(norm):
    conv = LevelConv(8, 3, norm=norm, bias=True)
    for x, found in zip(maps(), conv(maps())):
        alone = nn.BatchNorm2d(8)(nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)).relu()
        torch.testing.assert_close(found, alone)


def test_running_statistics_are_those_of_the_level():
    conv, alone = LevelConv(8, 3, norm=BN, bias=True), [nn.BatchNorm2d(8) for _ in SIZES]
    for _ in range(3):
        conv(maps())
        for norm, x in zip(alone, maps()):
            norm(nn.functional.conv2d(x, conv.weight, conv.bias, padding=1))
    for own, norm in zip(conv.norm.levels, alone):
        torch.testing.assert_close(own.running_mean, norm.running_mean)
        torch.testing.assert_close(own.running_var, norm.running_var)


def test_scale_and_shift_are_shared_and_learn_from_all_levels():
    norm = LevelBN(8, BN, 3)
    with torch.no_grad():
        norm.weight.fill_(2.0)
        norm.bias.fill_(0.5)
    found = [norm(x, level) for level, x in enumerate(maps())]
    for x in found:
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.full((8,), 0.5), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.full((8,), 2.0), atol=1e-4, rtol=0)
    sum(x.sum() for x in found).backward()
    assert norm.bias.grad.tolist() == [2 * sum(h * w for h, w in SIZES)] * 8
    assert [name for name, _ in norm.named_parameters()] == ["weight", "bias"]


@pytest.mark.parametrize("norm", [None, GN, FrozenBN])
def test_other_norms_are_one_for_all_levels(norm):
    conv = LevelConv(8, 3, norm=norm, bias=True)
    names = set(conv.state_dict())
    assert not any("levels" in name for name in names)
    for x, found in zip(maps(), conv(maps())):
        torch.testing.assert_close(found, conv([x])[0])


def test_scale_and_shift_decay_as_those_of_other_norms():
    model = nn.Sequential(LevelConv(8, 3, norm=BN, bias=True))
    groups = parameter_groups(model, GroupRules(lr=1.0, weight_decay=0.1, weight_decay_norm=0.0))
    decays = {name: group["weight_decay"] for group in groups for name in group["param_names"]}
    assert decays == {"0.weight": 0.1, "0.bias": 0.1, "0.norm.weight": 0.0, "0.norm.bias": 0.0}


def test_a_frozen_head_keeps_what_it_says():
    conv = LevelConv(8, 3, norm=BN, bias=True)
    conv(maps())
    expected = conv.eval()(maps())
    frozen = freeze(conv).train()
    assert all(isinstance(level, FrozenBN) for level in frozen.norm.levels)
    for found, wanted in zip(frozen(maps()), expected):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
@pytest.mark.parametrize("head", ["retinanet", "fcos"])
def test_detectron2s_names_are_written_and_read(head, norm):
    model = small(head, norm).train()
    model([sample(64, 96, seed=1), sample(80, 64, seed=2)])
    theirs = export_state(model.state_dict(), "detectron2")
    shared, own = ("weight", "bias"), ("running_mean", "running_var", "num_batches_tracked")
    for subnet in ("cls_subnet", "bbox_subnet"):
        norms = {name for name in theirs if name.startswith((f"head.{subnet}.1.", f"head.{subnet}.4."))}
        expected = [f"{i}.{kind}" for i in (1, 4) for kind in shared]
        expected += [f"{i}.{level}.{kind}" for i in (1, 4) for level in range(5) for kind in own]
        assert norms == {f"head.{subnet}.{rest}" for rest in expected}
    other = small(head, norm)
    report = load_weights(other, {"model": theirs})
    assert report.format == "Detectron2"
    assert report.complete, report
    again = other.state_dict()
    assert all(
        torch.equal(value, again[name]) for name, value in model.state_dict().items() if "normaliser" not in name
    )


def test_torchvisions_one_mean_is_every_levels():
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d)
    anchors = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    head = TorchvisionHead(256, 3, 3, norm_layer=nn.BatchNorm2d)
    reference = RetinaNet(backbone, 3, anchor_generator=anchors, head=head)
    for module in reference.head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    overrides = [
        "model.backbone={name: ResNet, depth: 18, norm: BN, out_features: [res2, res3, res4, res5]}",
        "model.neck={name: FPN, top_block: {name: LastLevelMaxPool}}",
        "model.head.norm=BN",
        "model.head.conv_bias=false",
        "model.head.anchor_generator.sizes=[[32], [64], [128], [256], [512]]",
    ]
    model = load_experiment("torchvision/retinanet_R_50_FPN_v2", overrides).build_model(3).eval()
    report = load_weights(model, reference.state_dict())
    assert report.complete, report
    levels = [torch.randn(1, 256, side, side) for side in (16, 8, 4, 2, 1)]
    with torch.no_grad():
        expected = reference.head.eval()(levels)
        found = model.head(levels)
    torch.testing.assert_close(torch.cat(found["logits"], 1), expected["cls_logits"])
    torch.testing.assert_close(torch.cat(found["deltas"], 1), expected["bbox_regression"])
    with pytest.raises(ValueError, match="torchvision's layout"):
        export_state(model.state_dict(), "torchvision")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_faster_copy_finds_the_same(precision):
    model = small("retinanet", "BN").train()
    model([sample(64, 96, seed=1), sample(80, 64, seed=2)])
    model.eval()
    features = [torch.rand(1, 16, side, side) for side in (16, 8, 4, 2, 1)]
    fast = optimized(model, precision)
    with torch.no_grad():
        found, expected = fast.head(features)["logits"], model.head(features)["logits"]
    tolerance = {"fp32": 1e-5, "bf16": 0.05}[precision]
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours.float(), theirs, atol=tolerance, rtol=tolerance)


def test_a_level_conv_of_one_level_is_a_convolution_with_its_norm():
    conv = LevelConv(8, 1, norm=partial(BN, eps=0.1), bias=False)
    assert conv.bias is None
    x = maps()[0]
    alone = nn.BatchNorm2d(8, eps=0.1)(nn.functional.conv2d(x, conv.weight, padding=1)).relu()
    torch.testing.assert_close(conv([x])[0], alone)
