"""Necks against torchvision's FPN, and on maps of any size."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool as TorchvisionMaxPool
from torchvision.ops.feature_pyramid_network import LastLevelP6P7 as TorchvisionP6P7

from detkit.config import Recipe
from detkit.layers import ShapeSpec
from detkit.modeling.interfaces import NECKS, TOP_BLOCKS
from detkit.modeling.necks import FPN, PAFPN, BiFPN, LastLevelMaxPool, LastLevelP6P7, SimpleFeaturePyramid
from detkit.modeling.necks.bifpn import BiFPNLayer, Fusion

CHANNELS = (8, 16, 24, 32)
SHAPES = {f"res{i + 2}": ShapeSpec(channels=c, stride=4 * 2**i) for i, c in enumerate(CHANNELS)}


def maps(height: int = 64, width: int = 96, shapes: dict[str, ShapeSpec] = SHAPES) -> dict[str, torch.Tensor]:
    """Random maps of those shapes for an image of that size."""
    return {n: torch.randn(2, s.channels, -(-height // s.stride), -(-width // s.stride)) for n, s in shapes.items()}


def torchvision_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our state dict under the names of torchvision's FPN."""
    out = {}
    for name, value in state.items():
        part, key, rest = name.split(".", 2) if name.count(".") > 1 else (*name.split(".", 1), "")
        if part == "top_block":
            out[f"extra_blocks.{key}.{rest}"] = value
        else:
            block = {"laterals": "inner_blocks", "outputs": "layer_blocks"}[part]
            out[f"{block}.{int(key[3:]) - 2}.0.{rest}"] = value
    return out


@pytest.mark.parametrize("size", [(64, 96), (75, 101)])
@pytest.mark.parametrize(
    ("top", "oracle"),
    [
        (Recipe(LastLevelMaxPool), TorchvisionMaxPool()),
        (None, None),
        (Recipe(LastLevelP6P7), TorchvisionP6P7(32, 16)),
        (Recipe(LastLevelP6P7, {"in_feature": "p5"}), TorchvisionP6P7(16, 16)),
    ],
    ids=["max_pool", "none", "p6p7_res5", "p6p7_p5"],
)
def test_fpn_equals_torchvision(top, oracle, size):
    fpn = FPN(SHAPES, out_channels=16, top_block=top)
    reference = FeaturePyramidNetwork(list(CHANNELS), 16, extra_blocks=oracle)
    reference.load_state_dict(torchvision_names(fpn.state_dict()), strict=True)
    features = maps(*size)
    got, want = fpn(features), reference(features)
    assert len(got) == len(want)
    for mine, theirs in zip(got.values(), want.values()):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("neck", [FPN, PAFPN, BiFPN])
@pytest.mark.parametrize("norm", [None, "GN", "BN"])
@pytest.mark.parametrize("top", [None, Recipe(LastLevelMaxPool), Recipe(LastLevelP6P7)])
@pytest.mark.parametrize("size", [(64, 96), (33, 50)])
def test_output_shape_is_the_real_shape_and_every_weight_learns(neck, norm, top, size):
    net = neck(SHAPES, out_channels=16, norm=norm, top_block=top)
    levels = net(maps(*size))
    assert list(levels) == list(net.output_shape) == ["p2", "p3", "p4", "p5", "p6", "p7"][: len(levels)]
    for name, level in levels.items():
        spec = net.output_shape[name]
        assert spec.stride == 2 ** int(name[1:])
        assert level.shape == (2, spec.channels, -(-size[0] // spec.stride), -(-size[1] // spec.stride))
    sum((level**2).sum() for level in levels.values()).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert all((m.bias is None) == (norm is not None) for m in net.laterals.values())


def test_names_in_the_state_dict():
    names = set(PAFPN(SHAPES, in_features=("res2", "res3"), norm="GN", out_channels=8).state_dict())
    assert {n.rsplit(".", 1)[0] for n in names} == {
        *("laterals.res2", "laterals.res2.norm", "laterals.res3", "laterals.res3.norm"),
        *("outputs.res2", "outputs.res2.norm", "outputs.res3", "outputs.res3.norm"),
        *("downsamples.res3", "downsamples.res3.norm", "bottom_up_outputs.res3", "bottom_up_outputs.res3.norm"),
    }


def test_average_halves_each_merge():
    total, mean = FPN(SHAPES, out_channels=8), FPN(SHAPES, out_channels=8, fuse="avg")
    mean.load_state_dict(total.state_dict())
    features = {n: torch.zeros_like(x) for n, x in maps().items()}
    features["res5"] = torch.randn_like(features["res5"])
    a, b = total(features), mean(features)  # biases start at zero, so only res5 contributes
    for name, factor in (("p2", 8), ("p3", 4), ("p4", 2), ("p5", 1)):
        torch.testing.assert_close(a[name], factor * b[name])


def test_pafpn_adds_a_bottom_up_path_to_the_fpn():
    pafpn, fpn = PAFPN(SHAPES, out_channels=8), FPN(SHAPES, out_channels=8)
    fpn.load_state_dict(pafpn.state_dict(), strict=False)
    features = maps()
    got, p = pafpn(features), fpn(features)
    torch.testing.assert_close(got["p2"], p["p2"])
    n = p["p2"]
    for i in (3, 4, 5):
        down, out = pafpn.downsamples[f"res{i}"], pafpn.bottom_up_outputs[f"res{i}"]
        n = F.relu(F.conv2d(n, down.weight, down.bias, stride=2, padding=1)) + p[f"p{i}"]
        n = F.relu(F.conv2d(n, out.weight, out.bias, padding=1))
        torch.testing.assert_close(got[f"p{i}"], n)
    torch.testing.assert_close(got["p6"], got["p5"][:, :, ::2, ::2])


def test_chosen_maps_in_any_order_give_levels_from_fine_to_coarse():
    fpn = FPN(SHAPES, out_channels=8, in_features=("res5", "res3"), top_block=None)
    assert [(n, s.stride) for n, s in fpn.output_shape.items()] == [("p3", 8), ("p5", 32)]
    levels = fpn(maps())
    assert levels["p3"].shape == (2, 8, 8, 12)
    assert not any("res2" in name or "res4" in name for name in fpn.state_dict())


@pytest.mark.parametrize("neck", [FPN, PAFPN])
@pytest.mark.parametrize(
    ("shapes", "options", "words"),
    [
        (SHAPES, {"in_features": ("res2", "res9")}, r"in_features: expected some of res2, res3, .*'res9'"),
        (SHAPES, {"in_features": ()}, "in_features: expected some of res2"),
        (SHAPES, {"in_features": ("res2", "res2")}, r"in_features: expected each map once, got \['res2', 'res2'\]"),
        ({"a": ShapeSpec(4, 12)}, {}, "powers of two, got stride 12"),
        (SHAPES, {"fuse": "max"}, "fuse: expected 'sum' or 'avg', got 'max'"),
        (SHAPES, {"top_block": Recipe(LastLevelP6P7, {"in_feature": "c5"})}, "no map 'c5'; choose one of res2.*p5"),
    ],
)
def test_mistakes_are_named(neck, shapes, options, words):
    with pytest.raises(ValueError, match=words):
        neck(shapes, **options)


@pytest.mark.parametrize(
    ("shapes", "strides"),
    [
        ({"a": ShapeSpec(4, 8), "b": ShapeSpec(4, 32)}, "8, 32"),
        ({"a": ShapeSpec(4, 16), "b": ShapeSpec(4, 16)}, "16, 16"),
    ],
)
def test_pafpn_needs_strides_that_double(shapes, strides):
    with pytest.raises(ValueError, match=rf"double from map to map, got \[{strides}\]"):
        PAFPN(shapes)


SAME_STRIDE = {"res4": ShapeSpec(8, 16), "res5": ShapeSpec(16, 32), "res5_2": ShapeSpec(24, 32)}


@pytest.mark.parametrize("in_features", [None, ("res5_2", "res5", "res4")])
@pytest.mark.parametrize("top", [LastLevelMaxPool, LastLevelP6P7])
def test_maps_of_one_stride_give_levels_of_one_stride(top, in_features):
    fpn = FPN(SAME_STRIDE, out_channels=16, in_features=in_features, top_block=Recipe(top))
    assert [(n, s.stride) for n, s in fpn.output_shape.items()][:4] == [
        ("p4", 16),
        ("p5", 32),
        ("p5_2", 32),
        ("p6", 64),
    ]
    oracle = TorchvisionMaxPool() if top is LastLevelMaxPool else TorchvisionP6P7(24, 16)
    reference = FeaturePyramidNetwork([8, 16, 24], 16, extra_blocks=oracle)
    place = {"res4": "res2", "res5": "res3", "res5_2": "res4"}  # what torchvision_names makes 0, 1, 2 of
    state = {".".join(place.get(part, part) for part in n.split(".")): t for n, t in fpn.state_dict().items()}
    reference.load_state_dict(torchvision_names(state), strict=True)
    features = maps(75, 101, SAME_STRIDE)
    got, want = fpn(features), reference(features)
    assert list(got) == list(fpn.output_shape)
    for mine, theirs in zip(got.values(), want.values(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("training", [False, True])
def test_fpn_with_norms_equals_torchvision(training):
    """As in ``fasterrcnn_resnet50_fpn_v2``: a norm after each convolution, which then has no bias."""
    fpn = FPN(SHAPES, out_channels=16, norm="BN")
    reference = FeaturePyramidNetwork(list(CHANNELS), 16, TorchvisionMaxPool(), norm_layer=torch.nn.BatchNorm2d)
    for name, tensor in fpn.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    theirs = {n.replace(".0.norm.", ".1."): t for n, t in torchvision_names(fpn.state_dict()).items()}
    reference.load_state_dict(theirs, strict=True)
    fpn.train(training), reference.train(training)
    features = maps()
    for mine, their in zip(fpn(features).values(), reference(features).values(), strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-4, atol=1e-5)


def test_registered():
    assert {"FPN", "PAFPN"} <= set(NECKS.names())
    assert {"LastLevelMaxPool", "LastLevelP6P7"} <= set(TOP_BLOCKS.names())


def test_a_simple_pyramid_has_levels_of_one_map():
    neck = SimpleFeaturePyramid({"res4": ShapeSpec(16, 16)}, out_channels=8)
    levels = neck({"res4": torch.randn(1, 16, 6, 10)})
    sizes = {"p2": (24, 40), "p3": (12, 20), "p4": (6, 10), "p5": (3, 5), "p6": (2, 3)}
    assert {name: tuple(level.shape[2:]) for name, level in levels.items()} == sizes
    assert neck.size_divisibility == 32
    other = SimpleFeaturePyramid({"a": ShapeSpec(16, 8)}, out_channels=8, scales=(2.0, 1.0), norm=None, top_block=None)
    assert list(other.output_shape) == ["p2", "p3"]
    assert all(conv.bias is not None for conv in other.levels["p2"])


@pytest.mark.parametrize(
    ("shapes", "options", "words"),
    [
        (SHAPES, {"in_feature": "p3"}, "in_feature: there is no map 'p3'; choose one of res2"),
        (SHAPES, {"scales": (4.0, 1.0)}, "scales: expected a part of 4, 2, 1, 0.5 without gaps"),
        (SHAPES, {"scales": (8.0, 4.0)}, r"scales: .*got \[8.0, 4.0\]"),
        ({"a": ShapeSpec(16, 2)}, {}, "scales: a map of stride 2 cannot be 4 times as large"),
        ({"a": ShapeSpec(16, 14)}, {"scales": (2.0, 1.0)}, "powers of two, got stride 7"),
    ],
)
def test_mistakes_of_a_simple_pyramid_are_named(shapes, options, words):
    with pytest.raises(ValueError, match=words):
        SimpleFeaturePyramid(shapes, **options)


@pytest.mark.parametrize("neck", [FPN, PAFPN, BiFPN])
def test_a_config_with_a_pyramid_of_one_map_is_answered_with_the_neck_that_makes_one(neck):
    with pytest.raises(ValueError, match=rf"{neck.__name__} joins .* res4 of stride 16; SimpleFeaturePyramid"):
        neck.check_strides({"res4": 16, "res5": 32}, {"in_features": ("res4",)})


def test_bifpn_is_the_papers_pass_over_the_levels():
    """Figure 2d and the equations of section 3.3, for three levels written out."""
    layer = BiFPNLayer(3, 8, None)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    fine, middle, coarse = maps(shapes={f"c{s}": ShapeSpec(channels=8, stride=s) for s in (8, 16, 32)}).values()

    def fused(fusion, *inputs):
        weights = fusion.weights.clamp(min=0)
        x = sum(w * value for w, value in zip(weights, inputs)) / (weights.sum() + 1e-4)
        return fusion.pointwise(fusion.depthwise(x * x.sigmoid()))

    def up(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def down(x):
        return F.max_pool2d(x, 3, 2, 1)

    middle_down = fused(layer.top_down[1], middle, up(coarse))
    fine_out = fused(layer.top_down[0], fine, up(middle_down))
    middle_out = fused(layer.bottom_up[0], middle, middle_down, down(fine_out))
    coarse_out = fused(layer.bottom_up[1], coarse, down(middle_out))
    for got, want in zip(layer([fine, middle, coarse]), (fine_out, middle_out, coarse_out), strict=True):
        torch.testing.assert_close(got, want)


def test_bifpn_weighs_maps_by_positive_weights_that_add_up_to_one():
    fusion = Fusion(2, 4, None)
    fusion.depthwise, fusion.pointwise = torch.nn.Identity(), torch.nn.Identity()
    a, b = torch.rand(1, 4, 5, 7), torch.rand(1, 4, 5, 7)
    for weights, share in (((1.0, 3.0), 0.25), ((2.0, -5.0), 1.0)):
        fusion.weights.data = torch.tensor(weights)
        torch.testing.assert_close(fusion([a, b]), F.silu(share * a + (1 - share) * b), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("names", [("res2", "res3"), ("res3", "res4", "res5"), tuple(SHAPES)])
def test_bifpn_takes_any_number_of_maps(names):
    net = BiFPN(SHAPES, in_features=names, out_channels=8, top_block=None, repeats=1)
    assert [shape.stride for shape in net(maps()) and net.output_shape.values()] == [SHAPES[n].stride for n in names]
    with pytest.raises(ValueError, match="BiFPN needs strides that double"):
        BiFPN(SHAPES, in_features=("res2", "res4"))


def test_coarse_levels_of_narrow_images_learn_in_bfloat16():
    block = LastLevelP6P7({"res5": ShapeSpec(32, stride=32)}, 16)
    x = torch.randn(1, 32, 2, 2)
    expected = torch.autograd.grad(sum(p.sum() for p in block({"res5": x}).values()), list(block.parameters()))
    for _ in range(10):
        dirty = [torch.full((n,), torch.inf, dtype=torch.bfloat16) for n in (256, 1024, 2304, 4608)]
        del dirty  # so that memory that nobody has written to shows
        with torch.autocast("cpu", torch.bfloat16):
            total = sum(p.float().sum() for p in block({"res5": x}).values())
        for found, wanted in zip(torch.autograd.grad(total, list(block.parameters())), expected):
            assert torch.allclose(found, wanted, atol=0.1)
