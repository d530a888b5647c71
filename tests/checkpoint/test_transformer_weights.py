"""Weights of pre-trained transformers as a model's backbone."""

import re

import pytest
import torch
from torch import nn

from detkit.checkpoint import load_weights, read_checkpoint
from detkit.checkpoint.conversion import convert
from detkit.checkpoint.formats import choose
from detkit.layers import ShapeSpec
from detkit.modeling.backbones import Swin, ViT
from detkit.modeling.backbones.vit import AbsolutePositions, RelativePositions, Windows
from detkit.registry import DataError

VIT = {"embed_dim": 8, "depth": 2, "num_heads": 2, "windows": Windows(size=2, global_blocks=(1,))}
PLAIN = {**VIT, "relative_positions": None}
SWIN = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2), "window_size": 3}


class Detector(nn.Module):
    """A model whose backbone is one part of it."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(2, 2)


def random_like(state):
    return {name: torch.randn(value.shape) for name, value in state.items()}


def of_mae(**options):
    """A file as MAE's pre-training writes it: a class token, a last norm, and no relative positions."""
    state = random_like(ViT(ShapeSpec(3), **PLAIN, **options).state_dict())
    return {"cls_token": torch.randn(1, 1, 8), **state, "norm.weight": torch.ones(8), "norm.bias": torch.ones(8)}


def test_mae(tmp_path):
    theirs = of_mae()
    torch.save({"model": theirs}, tmp_path / "mae.pth")
    model = Detector(ViT(ShapeSpec(3), **VIT))
    report = load_weights(model, tmp_path / "mae.pth")
    assert report.format == "vision transformer"
    assert set(report.missing) == {n for n in model.state_dict() if "rel_pos" in n or n.startswith("head.")}
    assert set(report.unused) == {"cls_token", "norm.weight", "norm.bias"}
    assert not report.unexpected
    for name in report.loaded:
        assert torch.equal(model.state_dict()[name], theirs[name.removeprefix("backbone.")])
    alone = ViT(ShapeSpec(3), **PLAIN)
    assert not load_weights(alone, theirs).missing


def test_positions_of_another_size_are_interpolated():
    theirs = of_mae()
    for absolute in (AbsolutePositions(image_size=384), AbsolutePositions(image_size=112, class_token=False)):
        model = ViT(ShapeSpec(3), **PLAIN, absolute_positions=absolute)
        report = load_weights(model, theirs)
        assert "interpolated" in report.changed["pos_embed"]
        token = int(absolute.class_token)
        assert torch.equal(model.pos_embed[:, :token], theirs["pos_embed"][:, :token])
        same = ViT(ShapeSpec(3), **PLAIN)  # interpolates for this size of map when it runs
        load_weights(same, theirs)
        side = absolute.image_size // 16
        torch.testing.assert_close(model._positions(side, side), same._positions(side, side))
    distilled = {**theirs, "pos_embed": torch.randn(1, 198, 8)}
    assert "pos_embed" in load_weights(ViT(ShapeSpec(3), **PLAIN), distilled).skipped


def test_relative_positions_of_another_size_are_what_the_network_interpolates_itself():
    large, small = (
        ViT(ShapeSpec(3), **VIT, relative_positions=RelativePositions(image_size=size)) for size in (160, 96)
    )
    state = random_like(large.state_dict())
    large.load_state_dict(state)
    report = load_weights(small, {f"backbone.net.{name}": value for name, value in state.items()}, strict=True)
    assert "interpolated" in report.changed["blocks.1.attn.rel_pos_h"]
    with torch.no_grad():
        images = torch.randn(1, 3, 96, 96)
        torch.testing.assert_close(small.eval()(images)["res4"], large.eval()(images)["res4"])


@pytest.mark.parametrize("kind", ["authors", "timm", "torchvision", "torchvision_detector"])
def test_swin(kind):
    backbone = Swin(ShapeSpec(3), **SWIN)
    ours = {n: v for n, v in random_like(backbone.state_dict()).items() if not n.startswith("norms.")}
    theirs = {_swin_name(name, kind): value for name, value in ours.items()}
    assert len(theirs) == len(ours)
    for name in [name for name in theirs if name.endswith("bias_table")]:
        theirs[name.replace("bias_table", "index")] = torch.zeros(9, 9, dtype=torch.long)
    theirs |= {"norm.weight": torch.ones(64), "norm.bias": torch.ones(64), "head.weight": torch.ones(5, 64)}
    model = Detector(backbone)
    report = load_weights(model, theirs)
    assert {n.split(".")[1] for n in report.missing if n.startswith("backbone.")} == {"norms"}
    assert not report.unexpected
    assert all(torch.equal(backbone.state_dict()[name], value) for name, value in ours.items())


def _swin_name(name, kind):
    name = name.replace("stages.", "layers.")
    if kind == "timm":
        return re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
    if kind.startswith("torchvision"):
        name = name.replace("patch_embed.proj", "features.0.0").replace("patch_embed.norm", "features.0.2")
        name = re.sub(r"layers\.(\d)\.blocks", lambda m: f"features.{2 * int(m[1]) + 1}", name)
        name = re.sub(r"layers\.(\d)\.downsample", lambda m: f"features.{2 * int(m[1]) + 2}", name)
        return name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")
    return name


def test_windows_of_another_size_get_their_offsets_interpolated():
    state = random_like({n: v for n, v in Swin(ShapeSpec(3), **SWIN).state_dict().items() if "norms" not in n})
    model = Swin(ShapeSpec(3), **{**SWIN, "window_size": 5})
    report = load_weights(model, {n.replace("stages.", "layers."): v for n, v in state.items()})
    assert not report.skipped
    assert len(report.changed) == 5
    middle = model.stages[0].blocks[0].attn.relative_position_bias_table[40]
    torch.testing.assert_close(middle.detach(), state["stages.0.blocks.0.attn.relative_position_bias_table"][12])


@pytest.mark.parametrize("extra", ["blocks.0.ls1.gamma", "blocks.0.attn.q_norm.weight", "norm_pre.weight"])
def test_other_networks_are_not_taken_for_these(extra):
    theirs = {**of_mae(), extra: torch.ones(8)}
    assert choose(theirs) is None
    with pytest.raises(DataError, match="not one of its tensors has a name of the model's"):
        load_weights(Detector(ViT(ShapeSpec(3), **VIT)), theirs)


def test_without_a_model_they_become_a_backbone(tmp_path):
    torch.save({"model": of_mae()}, tmp_path / "mae.pth")
    converted = convert(read_checkpoint(tmp_path / "mae.pth"), "detkit")
    assert "backbone.blocks.1.mlp.fc2.weight" in converted.model
    assert "backbone.pos_embed" in converted.model
