"""ViT and Swin: against plain formulas and torchvision's Swin, and in a whole detector."""

from functools import partial

import pytest
import torch
import torchvision
from small import sample, small_model
from torch.nn import functional as F

from detkit.checkpoint import load_weights
from detkit.experiment import load_experiment
from detkit.layers import ShapeSpec
from detkit.modeling.backbones import Swin, ViT
from detkit.modeling.backbones.swin import ShiftedWindowAttention
from detkit.modeling.backbones.vit import AbsolutePositions, RelativeAttention, RelativePositions, Windows
from detkit.modeling.necks import FPN, SimpleFeaturePyramid
from detkit.registry import ConfigError

VIT = {"embed_dim": 16, "depth": 3, "num_heads": 2, "patch_size": 8, "windows": Windows(size=3, global_blocks=(1,))}
VIT16 = {**VIT, "patch_size": 16}
SWIN = {"embed_dim": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 3}
TINY = {
    "ViT": (partial(ViT, residual_blocks=(2,), **VIT16), SimpleFeaturePyramid),
    "Swin": (partial(Swin, **SWIN), FPN),
}


def random(network):
    """The network with positions that are not all the same."""
    for name, parameter in network.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(parameter)
    return network.eval()


def attention_by_the_formula(attn, x, score):
    """Softmax of (q k / sqrt(d) + ``score(q, query's place, key's place)``) over all tokens of ``(H, W, C)``."""
    height, width, channels = x.shape
    q, k, v = attn.qkv(x).reshape(height * width, 3, attn.num_heads, -1).unbind(1)
    places = [(y, x) for y in range(height) for x in range(width)]
    scores = torch.einsum("ihd,jhd->hij", q, k) / (channels // attn.num_heads) ** 0.5
    scores += torch.stack([torch.stack([score(q[i], a, b) for b in places], 1) for i, a in enumerate(places)], 1)
    out = torch.einsum("hij,jhd->ihd", scores.softmax(2), v)
    return attn.proj(out.reshape(height, width, channels))


def test_relative_attention_is_the_formula():
    attn = random(RelativeAttention(8, 2, bias=True, window=None, side=4))

    def score(query, a, b):
        down, right = attn.rel_pos_h[a[0] - b[0] + 3], attn.rel_pos_w[a[1] - b[1] + 3]
        return query @ down + query @ right

    with torch.no_grad():
        x = torch.randn(4, 4, 8)
        torch.testing.assert_close(attn(x[None])[0], attention_by_the_formula(attn, x, score))


def test_shifted_windows_are_parts_of_the_map_and_its_edges_do_not_meet():
    attn = random(ShiftedWindowAttention(8, 2, bias=True, window=4, shift=2))

    def score(query, a, b):
        return attn.relative_position_bias_table[(a[0] - b[0] + 3) * 7 + a[1] - b[1] + 3]

    edges = (slice(0, 2), slice(2, 6), slice(6, 8))
    with torch.no_grad():
        x = torch.randn(8, 8, 8)
        got = attn(x[None])[0]
        for rows in edges:
            for columns in edges:
                part = x[rows, columns]
                torch.testing.assert_close(got[rows, columns], attention_by_the_formula(attn, part, score))


def test_swin_equals_torchvision(tmp_path):
    theirs = torchvision.models.SwinTransformer([4, 4], 24, [1, 2, 3, 2], [1, 2, 3, 4], [3, 3], num_classes=5)
    torch.save(random(theirs).state_dict(), tmp_path / "swin.pth")
    ours = Swin(ShapeSpec(3), embed_dim=24, depths=(1, 2, 3, 2), num_heads=(1, 2, 3, 4), window_size=3).eval()
    report = load_weights(ours, tmp_path / "swin.pth")
    assert all(name.startswith("norms.") for name in report.missing)
    assert len(report.loaded) == len(ours.state_dict()) - 8
    names = {f"features.{2 * i + 1}": f"res{i + 2}" for i in range(4)}
    extract = torchvision.models.feature_extraction.create_feature_extractor(theirs, names)
    images = torch.randn(2, 3, 132, 164)
    with torch.no_grad():
        got, want = ours(images), extract(images)
    for name, value in got.items():
        expected = F.layer_norm(want[name], want[name].shape[-1:]).permute(0, 3, 1, 2)
        torch.testing.assert_close(value, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (33, 50), (8, 120)])
@pytest.mark.parametrize("name", TINY)
def test_maps_of_any_size(name, size):
    network = TINY[name][0](ShapeSpec(3)).eval()
    maps = network(torch.randn(2, 3, *size))
    for key, spec in network.output_shape.items():
        assert maps[key].shape == (2, spec.channels, -(-size[0] // spec.stride), -(-size[1] // spec.stride))


@pytest.mark.parametrize("name", TINY)
def test_images_of_a_batch_do_not_see_each_other(name):
    network = random(TINY[name][0](ShapeSpec(3)))
    images = torch.randn(3, 3, 72, 104)
    with torch.no_grad():
        together, alone = network(images), network(images[1:2])
    for key, value in alone.items():
        torch.testing.assert_close(together[key][1:2], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_checkpointed_activations_give_the_same_gradients(name):
    build = TINY[name][0]
    torch.manual_seed(0)
    kept, recomputed = (random(build(ShapeSpec(3), checkpoint_activations=flag)) for flag in (False, True))
    recomputed.load_state_dict(kept.state_dict())
    images = torch.randn(1, 3, 64, 64)
    for network in (kept, recomputed):
        sum(value.square().sum() for value in network(images).values()).backward()
    for a, b in zip(kept.parameters(), recomputed.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("name", TINY)
def test_a_detector_learns_in_every_part(name):
    backbone, neck = TINY[name]
    torch.manual_seed(0)
    model = small_model(backbone=backbone, neck=neck)
    losses = model([sample(60, 90), sample(64, 64, num=0, seed=1)])
    assert torch.isfinite(losses.total())
    losses.total().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert not without


@pytest.mark.parametrize("name", TINY)
def test_a_detector_begins_with_a_pretrained_backbone(name):
    backbone, neck = TINY[name]
    model = small_model(backbone=backbone, neck=neck)
    added = tuple(f"{part}." for part in model.backbone.added_layers())
    pretrained = {n: torch.randn(v.shape) for n, v in model.backbone.state_dict().items() if not n.startswith(added)}
    report = load_weights(model, {n.replace("stages.", "layers."): v for n, v in pretrained.items()})
    assert report.of_backbone_alone
    assert all(torch.equal(model.backbone.state_dict()[n], v) for n, v in pretrained.items())


@pytest.mark.parametrize("name", TINY)
def test_half_precision(name):
    network, images = TINY[name][0](ShapeSpec(3)), torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        maps = network(images)
        sum(value.float().square().sum() for value in maps.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "freeze_at", "frozen"),
    [
        ("ViT", 0, ()),
        ("ViT", 2, ("patch_embed.", "pos_embed", "blocks.0.")),
        ("ViT", 4, ("patch_embed.", "pos_embed", "blocks.")),
        ("Swin", 1, ("patch_embed.",)),
        ("Swin", 3, ("patch_embed.", "stages.0.", "stages.1.")),
    ],
)
def test_freeze_at(name, freeze_at, frozen):
    network = TINY[name][0](ShapeSpec(3), freeze_at=freeze_at)
    for key, parameter in network.named_parameters():
        assert parameter.requires_grad != key.startswith(frozen or ("none",)), key


def test_absolute_positions_are_interpolated_and_the_class_token_left_out():
    network = ViT(ShapeSpec(3), **{**VIT, "depth": 2}, absolute_positions=AbsolutePositions(image_size=32))
    assert network.pos_embed.shape == (1, 17, 16)
    with torch.no_grad():
        network.pos_embed[:, 0] = 1e6
        network.pos_embed[:, 1:] = 3.0
        torch.testing.assert_close(network._positions(5, 9), torch.full((1, 5, 9, 16), 3.0))
        network.pos_embed[:, 1:] = torch.randn(1, 16, 16)
        assert torch.equal(network._positions(4, 4).flatten(1, 2), network.pos_embed[:, 1:])


def test_parts_that_are_left_out_have_no_weights():
    network = ViT(ShapeSpec(4), **{**VIT, "windows": None, "absolute_positions": None, "relative_positions": None})
    assert not [name for name in network.state_dict() if "pos" in name]
    assert network.patch_embed.proj.weight.shape == (16, 4, 8, 8)
    assert {block.attn.window for block in network.blocks} == {None}
    everywhere = ViT(ShapeSpec(3), **{**VIT, "windows": None, "relative_positions": RelativePositions(image_size=64)})
    assert {len(block.attn.rel_pos_h) for block in everywhere.blocks} == {15}


@pytest.mark.parametrize("chosen", [("res3",), ("res4", "res2")])
def test_stages_that_no_map_needs_are_not_built(chosen):
    network = Swin(ShapeSpec(3), **{**SWIN, "out_features": chosen})
    assert list(network.output_shape) == sorted(chosen)
    assert len(network.stages) == int(max(chosen)[3:]) - 1
    assert network.stages[-1].downsample is None
    sum(value.sum() for value in network(torch.randn(1, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_is_in_one_layer(name):
    network = TINY[name][0](ShapeSpec(3))
    parts = [part for layer in network.layers() for part in layer] + network.added_layers()
    for key, _ in network.named_parameters():
        holders = [part for part in parts if f"{key}.".startswith(f"{part}.")]
        assert len(holders) == 1 + ("residual" in key), key


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (partial(ViT, embed_dim=10, num_heads=4), "num_heads: expected a number that divides 10 channels, got 4"),
        (partial(ViT, depth=2), r"windows.global_blocks: expected blocks from 0 to 1, got 11"),
        (partial(ViT, **VIT, residual_blocks=(3,)), r"residual_blocks: expected blocks from 0 to 2, got 3"),
        (partial(ViT, **VIT, freeze_at=5), r"freeze_at: expected 0 \(nothing\) to 4 \(everything\), got 5"),
        (partial(ViT, patch_size=256), r"absolute_positions.image_size: expected at least a patch of 256 pixels"),
        (partial(Swin, depths=(2, 2)), "num_heads: expected one for each of 2 depths"),
        (partial(Swin, embed_dim=40), "num_heads: expected a number that divides 40 channels, got 3"),
        (partial(Swin, out_features=("p0",)), r"out_features: expected some of res2, res3, res4, res5, got \['p0'\]"),
        (partial(Swin, out_features=("res2",), freeze_at=3), r"freeze_at: expected 0 \(nothing\) to 2"),
    ],
)
def test_mistakes_are_named(build, words):
    with pytest.raises(ValueError, match=words):
        build(ShapeSpec(3))


@pytest.mark.parametrize(
    ("option", "word"), [("depth=4", "global_blocks"), ("num_heads=5", "num_heads"), ("freeze_at=20", "freeze_at")]
)
def test_mistakes_are_named_before_anything_is_built(option, word):
    with pytest.raises(ConfigError, match=rf"model\.backbone.*{word}: expected"):
        load_experiment("coco/mask_rcnn_vitdet_b_100ep", [f"model.backbone.{option}"])
