"""ResNet and ResNeXt against torchvision's, with the same weights."""

import copy
import re
from functools import partial

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from detkit.layers import NORMS, FrozenBN, ShapeSpec
from detkit.modeling.backbones import BottleneckStage, DeformConv, ResNet, ResNeXt

RGB = ShapeSpec(channels=3)


def torchvision_names(name: str) -> str:
    """The name of one of our ResNet's tensors in torchvision's ResNet."""
    name = re.sub(r"^stem\.conv1\.norm", "bn1", name)
    name = re.sub(r"^stem\.conv1", "conv1", name)
    name = re.sub(r"^res(\d)", lambda m: f"layer{int(m[1]) - 1}", name)
    name = re.sub(r"conv(\d)\.norm", r"bn\1", name)
    return name.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")


def with_random_norms(net: nn.Module) -> nn.Module:
    """Makes norms anything but neutral, while values stay in range through many layers."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.6)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


def reference(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The four stages of torchvision's ResNet."""
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    out = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        out.append(x)
    return out


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda **kw: ResNet(RGB, depth=18, **kw), "resnet18"),
        (lambda **kw: ResNet(RGB, depth=34, **kw), "resnet34"),
        (lambda **kw: ResNet(RGB, depth=50, **kw), "resnet50"),
        (lambda **kw: ResNet(RGB, depth=101, **kw), "resnet101"),
        (lambda **kw: ResNeXt(RGB, depth=50, num_groups=32, width_per_group=4, **kw), "resnext50_32x4d"),
        (lambda **kw: ResNeXt(RGB, **kw), "resnext101_32x8d"),
    ],
    ids=["18", "34", "50", "101", "X-50-32x4d", "X-101-32x8d"],
)
def test_equals_torchvision_with_its_weights(make, name, norm):
    theirs = with_random_norms(torchvision.models.get_model(name, weights=None))
    ours = make(norm=norm, freeze_at=0, stride_in_1x1=False).eval()
    state = theirs.state_dict()
    ours.load_state_dict({n: state[torchvision_names(n)] for n in ours.state_dict()}, strict=True)
    used = {torchvision_names(n) for n in ours.state_dict()}
    assert {n for n in state if n not in used and "num_batches" not in n} == {"fc.weight", "fc.bias"}
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        got, want = ours(x), reference(theirs, x)
    assert list(got) == ["res2", "res3", "res4", "res5"]
    for mine, their in zip(got.values(), want):
        torch.testing.assert_close(mine, their, rtol=1e-3, atol=1e-3 * their.abs().max().item())


def test_dilated_res5_equals_torchvision():
    theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
    with_random_norms(theirs)
    ours = ResNet(RGB, depth=50, norm="BN", freeze_at=0, stride_in_1x1=False, res5_dilation=2).eval()
    state = theirs.state_dict()
    ours.load_state_dict({n: state[torchvision_names(n)] for n in ours.state_dict()})
    assert [s.stride for s in ours.output_shape.values()] == [4, 8, 16, 16]
    # torchvision leaves the first block of a dilated stage undilated, as its weights were trained; ours dilates all
    theirs.layer4[0].conv2.dilation = theirs.layer4[0].conv2.padding = (2, 2)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for mine, their in zip(ours(x).values(), reference(theirs, x)):
            torch.testing.assert_close(mine, their, rtol=1e-3, atol=1e-3 * their.abs().max().item())


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_biases_epsilon_and_same_pooling_equal_a_network_with_them(norm):
    """pytorch-mask-rcnn's ResNet: convolutions with a bias, BN with epsilon 1e-3, TensorFlow's padding in the stem."""
    theirs = with_random_norms(torchvision.models.resnet50(weights=None))
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(torch.randn(module.out_channels) * 0.1)
    theirs.maxpool = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2))
    options = {"conv_bias": True, "stem_pool": "same", "stride_in_1x1": False}
    ours = ResNet(RGB, norm=partial(NORMS.get(norm), eps=1e-3), freeze_at=0, **options).eval()
    state = theirs.state_dict()
    ours.load_state_dict({n: state[torchvision_names(n)] for n in ours.state_dict()}, strict=True)
    assert sum(n.endswith(".bias") and "norm" not in n for n in ours.state_dict()) == 53
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for mine, their in zip(ours(x).values(), reference(theirs, x)):
            torch.testing.assert_close(mine, their, rtol=1e-3, atol=1e-3 * their.abs().max().item())


@pytest.mark.parametrize("make", [ResNet, ResNeXt])
@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "SyncBN", "GN"])
def test_epsilon_and_biases_reach_every_layer_also_the_frozen_ones(make, norm):
    with torch.device("meta"):
        norm = partial(NORMS.get(norm), eps=0.25)
        net = make(RGB, depth=50, norm=norm, conv_bias=True, deform=DeformConv(("res4",)))
    epsilons = [m.eps for m in net.modules() if hasattr(m, "eps")]
    assert epsilons == [0.25] * 53
    assert all(m.bias is not None for m in net.modules() if isinstance(m, nn.Conv2d))


def test_same_pooling_looks_right_and_below():
    stem = ResNet(RGB, depth=18, norm="BN", freeze_at=0, stem_pool="same").stem.eval()
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        before, after = stem.conv1(x), stem(x)
    assert after.shape == (1, 64, 8, 12)
    assert torch.equal(after[0, 0, 0, 0], before[0, 0, :3, :3].max())
    assert torch.equal(after[0, 0, -1, -1], before[0, 0, -2:, -2:].max())


def test_zero_epsilon_is_allowed():
    assert ResNet(RGB, depth=18, norm=partial(FrozenBN, eps=0.0)).stem.conv1.norm.eps == 0


DEFORM = [
    (ResNet, {}, DeformConv(("res3", "res5"))),
    (ResNet, {"res5_dilation": 2}, DeformConv(("res4", "res5"), modulated=True)),
    (ResNeXt, {"num_groups": 4}, DeformConv(("res2", "res5"), modulated=True, num_groups=2)),
    (ResNeXt, {"num_groups": 4}, DeformConv(("res2",), num_groups=4)),
]


@pytest.mark.parametrize(("make", "options", "deform"), DEFORM)
def test_deformable_stages_start_as_plain_ones(make, options, deform):
    """Unmoved taps, which count one half where they are modulated."""
    net = make(RGB, depth=50, norm="BN", freeze_at=0, deform=deform, **options).eval()
    ordinary = make(RGB, depth=50, norm="BN", freeze_at=0, **options).eval()
    state = net.state_dict()
    names = {n for n in state if "offset" in n}
    assert {n.split(".")[0] for n in names} == set(deform.stages)
    assert {n.split(".", 2)[2] for n in names} == {"conv2_offset.weight", "conv2_offset.bias"}
    assert not any(state[n].any() for n in names)
    channels = (27 if deform.modulated else 18) * deform.num_groups
    assert all(state[n].shape[0] == channels for n in names)
    halved = {n: t / 2 if deform.modulated and _is_deformable_weight(n, deform) else t for n, t in state.items()}
    ordinary.load_state_dict({n: t for n, t in halved.items() if n not in names}, strict=True)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for mine, theirs in zip(net(x).values(), ordinary(x).values()):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def _is_deformable_weight(name: str, deform: DeformConv) -> bool:
    return name.split(".")[0] in deform.stages and name.endswith("conv2.weight")


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("make", "options", "deform"), DEFORM)
def test_a_deformable_block_is_detectron2s(make, options, deform, channels_last, norm):
    net = make(RGB, depth=50, norm=norm, freeze_at=0, deform=deform, **options).eval()
    block = net.get_submodule(deform.stages[-1])[0]
    for tensor in (block.conv2_offset.weight, block.conv2_offset.bias):
        nn.init.normal_(tensor, std=0.1)
    for module in block.modules():
        if hasattr(module, "running_var"):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, std=0.1)
    x = torch.randn(2, block.conv1.in_channels, 10, 14)
    with torch.no_grad():
        y = block.conv1(x)
        numbers, mask = F.conv2d(y, block.conv2_offset.weight, block.conv2_offset.bias, *_geometry(block)), None
        if deform.modulated:
            first, second, mask = numbers.chunk(3, dim=1)
            numbers, mask = torch.cat([first, second], dim=1), mask.sigmoid()
        y = block.conv2.norm(deform_conv2d(y, numbers, block.conv2.weight, None, *_geometry(block), mask)).relu()
        wanted = (block.conv3(y) + block.shortcut(x)).relu()
        if channels_last:
            block, x = (t.to(memory_format=torch.channels_last) for t in (block, x))
        torch.testing.assert_close(block(x), wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())


def _geometry(block: nn.Module) -> tuple[tuple[int, int], ...]:
    dilation = block.conv2.dilation
    assert block.conv2.padding == dilation
    return block.conv2.stride, block.conv2.padding, dilation


def test_deformable_stages_learn_and_freeze():
    net = ResNet(RGB, depth=50, width=8, norm="BN", freeze_at=3, deform=DeformConv(("res3", "res4", "res5"), True))
    sum((x**2).mean() for x in net(torch.randn(2, 3, 64, 64)).values()).backward()
    learning = {n for n, p in net.named_parameters() if p.grad is not None}
    assert {n for n, p in net.named_parameters() if p.requires_grad} == learning
    offsets = [n for n in net.state_dict() if "offset" in n]
    assert {n.split(".")[0] for n in offsets if n in learning} == {"res4", "res5"}


@pytest.mark.parametrize("stride_in_1x1", [True, False])
@pytest.mark.parametrize("num_groups", [1, 4])
def test_a_stage_alone_is_the_networks(stride_in_1x1, num_groups):
    options = {"num_groups": num_groups, "width_per_group": 16, "stride_in_1x1": stride_in_1x1, "norm": "BN"}
    stage = BottleneckStage(**options).build(1024).eval()
    net = ResNeXt(RGB, depth=50, freeze_at=0, **options).eval()
    stage.load_state_dict(net.res5.state_dict(), strict=True)
    x = torch.randn(2, 1024, 7, 7)
    with torch.no_grad():
        assert torch.equal(stage(x), net.res5(x))
    assert stage(x).shape == (2, 2048, 4, 4)
    undilated = BottleneckStage(num_blocks=1, stride=1).build(64)
    assert undilated(torch.randn(1, 64, 7, 7)).shape == (1, 128, 7, 7)


def test_a_stage_of_nothing_is_refused():
    with pytest.raises(ValueError, match="num_blocks: expected at least 1, got 0"):
        BottleneckStage(num_blocks=0)


@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_where_the_stride_is(stride_in_1x1):
    block = ResNet(RGB, depth=50, stride_in_1x1=stride_in_1x1).res3[0]
    assert (block.conv1.stride, block.conv2.stride) == (((2, 2), (1, 1)) if stride_in_1x1 else ((1, 1), (2, 2)))


def test_names_are_detectron2s():
    names = set(ResNet(RGB, depth=50, norm="FrozenBN").state_dict())
    norm = ("weight", "bias", "running_mean", "running_var")
    assert {"stem.conv1.weight", *(f"stem.conv1.norm.{n}" for n in norm)} <= names
    assert {"res2.0.shortcut.weight", *(f"res2.0.shortcut.norm.{n}" for n in norm)} <= names
    assert {"res5.2.conv3.weight", *(f"res5.2.conv3.norm.{n}" for n in norm)} <= names
    assert len(names) == 53 * 5
    assert not any("bias" in n and "norm" not in n for n in names)


@pytest.mark.parametrize("options", [{"depth": 18, "width": 8}, {"depth": 34, "width": 8}, {"depth": 50, "width": 8}])
@pytest.mark.parametrize("size", [(64, 64), (75, 107)])
def test_output_shape_is_the_real_shape_and_every_weight_learns(options, size):
    net = ResNet(RGB, norm="BN", freeze_at=0, **options)
    features = net(torch.randn(2, 3, *size))
    assert list(features) == list(net.output_shape)
    for name, x in features.items():
        spec = net.output_shape[name]
        assert x.shape == (2, spec.channels, -(-size[0] // spec.stride), -(-size[1] // spec.stride))
    sum((x**2).mean() for x in features.values()).backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "SyncBN", "GN"])
@pytest.mark.parametrize("freeze_at", range(6))
def test_frozen_stages_neither_learn_nor_drift(norm, freeze_at):
    net = ResNet(RGB, depth=18, width=8, norm=norm, freeze_at=freeze_at).train()
    parts = ["stem", "res2", "res3", "res4", "res5"]
    for i, part in enumerate(parts):
        module = net.get_submodule(part)
        assert {p.requires_grad for p in module.parameters()} == {i >= freeze_at}
        batch_norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert bool(batch_norms) == (i >= freeze_at and norm in ("BN", "SyncBN"))
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(2, 3, 64, 64))
    drifted = {n.split(".")[0] for n, t in net.state_dict().items() if not torch.equal(t, before[n])}
    assert drifted == (set(parts[freeze_at:]) if norm in ("BN", "SyncBN") else set())


def test_only_what_is_needed_is_built():
    net = ResNet(RGB, depth=18, width=8, out_features=("res4", "res2"))
    assert list(net.output_shape) == ["res2", "res4"]
    assert not hasattr(net, "res5")
    assert list(net(torch.zeros(1, 3, 64, 64))) == ["res2", "res4"]
    assert net.size_divisibility == 16


def test_any_number_of_channels():
    net = ResNet(ShapeSpec(channels=5), depth=18, width=8)
    assert net(torch.zeros(1, 5, 64, 64))["res5"].shape == (1, 64, 2, 2)


def test_builds_and_runs_on_the_meta_device():
    with torch.device("meta"):
        assert ResNeXt(RGB)(torch.empty(1, 3, 64, 64))["res5"].shape == (1, 2048, 2, 2)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in ResNet(RGB, norm="BN", freeze_at=5).modules())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"out_features": ("res2", "c5")},
            r"out_features: expected some of res2, res3, res4, res5, got \['res2', 'c5'\]",
        ),
        ({"out_features": ()}, "out_features: expected some of"),
        ({"freeze_at": 6}, "freeze_at: expected 0 .* got 6"),
        ({"depth": 51}, "depth: expected one of 18, 34, 50, 101, 152, got 51"),
        ({"width": 0}, "width: expected at least 1"),
        ({"depth": 18, "res5_dilation": 2}, "res5_dilation: 2 needs bottlenecks"),
        ({"res5_dilation": 3}, "res5_dilation: expected 1 or 2"),
        ({"stem_pool": "valid"}, "stem_pool: expected 'default' or 'same', got 'valid'"),
        ({"depth": 34, "deform": DeformConv(("res3",))}, "deform: needs bottlenecks .* depth is 34"),
        ({"deform": DeformConv(("res6",))}, "deform.stages: expected .* res2, res3, res4, res5, got 'res6'"),
        ({"deform": DeformConv(("res5",)), "out_features": ("res4",)}, "that are built, res2, res3, res4, got 'res5'"),
        ({"deform": DeformConv(("res3",), num_groups=3)}, "3 groups do not divide 128 channels"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        ResNet(RGB, **options)


def test_frozen_norm_is_folded_only_where_it_is():
    net = ResNet(RGB, depth=18, width=8, norm="BN", freeze_at=2)
    assert isinstance(net.res2[0].conv1.norm, FrozenBN)
    assert isinstance(net.res3[0].conv1.norm, nn.BatchNorm2d)


def test_mistakes_of_deformable_stages_are_named():
    with pytest.raises(ValueError, match=r"deform.stages: .* got none; for none set deform: null"):
        DeformConv(())
    with pytest.raises(ValueError, match=r"deform.num_groups: expected at least 1"):
        DeformConv(("res3",), num_groups=0)
