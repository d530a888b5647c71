"""TorchvisionBackbone: the same maps as the network itself, in the right places, with nothing left over."""

import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn

from detkit.layers import FrozenBN, ShapeSpec, SyncBN
from detkit.modeling.backbones import TorchvisionBackbone
from detkit.modeling.backbones.torchvision_stages import trace, units
from detkit.modeling.necks import FPN

RGB = ShapeSpec(channels=3)
CHANNELS = {
    "mobilenet_v2": [24, 32, 96, 1280],
    "mobilenet_v3_large": [24, 40, 112, 960],
    "efficientnet_b0": [24, 40, 112, 1280],
    "convnext_tiny": [96, 192, 384, 768],
    "swin_t": [96, 192, 384, 768],
    "swin_v2_t": [96, 192, 384, 768],
    "resnet50": [256, 512, 1024, 2048],
    "regnet_y_400mf": [48, 104, 208, 440],
    "densenet121": [256, 512, 1024, 1024],
    "vgg16": [256, 512, 512, 512],
    "shufflenet_v2_x1_0": [24, 116, 232, 1024],
    "mnasnet1_0": [24, 40, 96, 1280],
    "googlenet": [192, 480, 832, 1024],
}
SMALL = ["mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "swin_t"]


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize("model", CHANNELS)
def test_finds_a_map_of_every_stride_without_computing(model):
    with torch.device("meta"):
        net = TorchvisionBackbone(RGB, model=model)
        maps = net(torch.empty(2, 3, 96, 160))
    assert all(p.is_meta for p in net.parameters())
    want = {f"res{i + 2}": ShapeSpec(channels=c, stride=4 * 2**i) for i, c in enumerate(CHANNELS[model])}
    assert net.output_shape == want
    assert list(net.output_shape) == list(maps) == list(want)
    for name, spec in want.items():
        assert maps[name].shape == (2, spec.channels, 96 // spec.stride, 160 // spec.stride)


@pytest.mark.parametrize("size", [(64, 96), (75, 107)])
@pytest.mark.parametrize("model", SMALL)
def test_every_weight_learns_at_any_size(model, size):
    net = TorchvisionBackbone(RGB, model=model).train()
    maps = net(torch.randn(2, 3, *size))
    for name, x in maps.items():
        spec = net.output_shape[name]
        assert x.shape[:2] == (2, spec.channels)
        for side, cells in zip(size, x.shape[2:]):  # of a side that is no multiple some networks drop the rest
            assert cells in {side // spec.stride, -(-side // spec.stride)}
    sum((x**2).mean() for x in maps.values()).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize("model", [m for m in CHANNELS if m not in SMALL])
def test_every_weight_of_a_large_network_learns_at_any_size(model):
    test_every_weight_learns_at_any_size(model, (75, 107))


@pytest.mark.parametrize("training", [False, True])
def test_gives_what_the_network_itself_computes(training):
    net = TorchvisionBackbone(RGB, model="mobilenet_v2").train(training)
    whole = torchvision.models.mobilenet_v2(weights=None).train(training)
    missing = whole.load_state_dict(net.body.state_dict(), strict=False).missing_keys
    assert set(missing) == {"classifier.1.weight", "classifier.1.bias"}
    x = images = torch.randn(2, 3, 64, 64)
    want = {}
    for i, block in enumerate(whole.features):
        x = block(x)
        want[i] = x
    got = net(images)
    for name, i in {"res2": 3, "res3": 6, "res4": 13, "res5": 18}.items():
        torch.testing.assert_close(got[name], want[i])


def test_swin_maps_are_channels_first_and_normalised_last():
    net = TorchvisionBackbone(RGB, model="swin_t").eval()
    whole = torchvision.models.swin_t(weights=None).eval()
    whole.load_state_dict(net.body.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        got, x = net(images), whole.features[:6](images)
        torch.testing.assert_close(got["res4"], x.permute(0, 3, 1, 2))
        torch.testing.assert_close(got["res5"], whole.permute(whole.norm(whole.features[6:](x))))


def test_training_mode_switches_stochastic_depth():
    net = TorchvisionBackbone(RGB, model="efficientnet_b0", norm="FrozenBN")
    x = torch.randn(4, 3, 64, 64)
    assert torch.equal(net.eval()(x)["res4"], net(x)["res4"])
    assert not torch.equal(net.train()(x)["res4"], net(x)["res4"])


def test_chosen_maps_by_name_and_by_part():
    net = TorchvisionBackbone(RGB, model="mobilenet_v2", out_features=("res4", "features.2"))
    assert {n: (s.channels, s.stride) for n, s in net.output_shape.items()} == {"res2": (24, 4), "res4": (96, 16)}
    assert list(net.output_shape) == ["res2", "res4"]
    assert not hasattr(net.body.features, "14")
    inner = TorchvisionBackbone(RGB, model="mobilenet_v2", out_features=("features.4.conv.0",))
    assert inner.output_shape == {"res2": ShapeSpec(channels=144, stride=4)}


def test_several_maps_of_one_stride_by_their_parts():
    parts = ("features.16", "res3", "features.13", "features.14")
    net = TorchvisionBackbone(RGB, model="mobilenet_v3_large", out_features=parts).eval()
    shapes = [(n, s.channels, s.stride) for n, s in net.output_shape.items()]
    assert shapes == [("res3", 40, 8), ("res5", 160, 32), ("res5_2", 160, 32), ("res5_3", 960, 32)]
    whole = torchvision.models.mobilenet_v3_large(weights=None).eval()
    whole.load_state_dict(net.body.state_dict(), strict=False)
    x, want = torch.randn(1, 3, 64, 96), {}
    with torch.no_grad():
        maps = net(x)
        for i, block in enumerate(whole.features):
            x = block(x)
            want[i] = x
    for name, i in {"res3": 6, "res5": 13, "res5_2": 14, "res5_3": 16}.items():
        torch.testing.assert_close(maps[name], want[i])
    assert list(maps) == list(net.output_shape)
    assert [tuple(m.shape[1:]) for m in maps.values()] == [(c, 64 // s, 96 // s) for _, c, s in shapes]


@pytest.mark.parametrize(("norm", "kind"), [("BN", nn.BatchNorm2d), ("FrozenBN", FrozenBN)])
def test_epsilon_is_the_networks_own_unless_it_is_given(norm, kind):
    for given, wanted in ((None, 1e-3), (1e-5, 1e-5), (0.0, 0.0)):
        net = TorchvisionBackbone(RGB, model="mobilenet_v3_small", norm=norm, norm_eps=given, freeze_at=2)
        epsilons = [m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d | FrozenBN)]
        assert len(epsilons) > 30
        assert set(epsilons) == {wanted}
        assert any(isinstance(m, kind) for m in net.modules())


def test_two_maps_of_one_stride_and_an_fpn_are_torchvisions_detector():
    """``fasterrcnn_mobilenet_v3_large_fpn``: both maps have stride 32, and norms the epsilon of BatchNorm2d."""
    theirs = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None).backbone.eval()
    for name, tensor in theirs.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            nn.init.normal_(tensor, std=0.1)
    parts = ("features.13", "features.16")
    body = TorchvisionBackbone(RGB, model="mobilenet_v3_large", out_features=parts, norm="FrozenBN", norm_eps=1e-5)
    fpn = FPN(body.output_shape)
    state = theirs.state_dict()
    body.load_state_dict({n: state[n.replace("body.features.", "body.")] for n in body.state_dict()}, strict=True)
    blocks = {"laterals": "inner_blocks", "outputs": "layer_blocks", "res5": "0", "res5_2": "1"}
    names = {n: n.split(".") for n in fpn.state_dict()}
    fpn.load_state_dict({n: state[f"fpn.{blocks[p]}.{blocks[k]}.0.{w}"] for n, (p, k, w) in names.items()}, strict=True)
    assert {n: (s.channels, s.stride) for n, s in fpn.output_shape.items()} == {
        "p5": (256, 32),
        "p5_2": (256, 32),
        "p6": (256, 64),
    }
    for size in ((64, 96), (75, 107)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            ours, want = fpn(body.eval()(x)), theirs(x)
        assert list(want) == ["0", "1", "pool"]
        for mine, their in zip(ours.values(), want.values()):
            torch.testing.assert_close(mine, their, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["mobilenet_v2", "resnet18", "convnext_tiny", "vgg11_bn", "densenet121"])
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3, 5])
def test_frozen_parts_do_not_learn(model, freeze_at):
    with torch.device("meta"):
        net = TorchvisionBackbone(RGB, model=model, freeze_at=freeze_at)
    stride, reached = 1, {}
    for unit in units(trace(model)):
        stride = unit.stride or stride
        reached[unit.name] = stride
    assert max(reached.values()) == 32
    for name, p in net.body.named_parameters():
        unit = next(u for u in sorted(reached, key=len, reverse=True) if name.startswith(u + "."))
        frozen = freeze_at > 0 and reached[unit] <= 2**freeze_at
        assert p.requires_grad != frozen, name
    for name, m in net.body.named_modules():
        if isinstance(m, nn.BatchNorm2d | FrozenBN):
            unit = next(u for u in sorted(reached, key=len, reverse=True) if (name + ".").startswith(u + "."))
            frozen = freeze_at > 0 and reached[unit] <= 2**freeze_at
            assert isinstance(m, FrozenBN) == frozen, name


@pytest.mark.parametrize(("norm", "kind"), [("FrozenBN", FrozenBN), ("SyncBN", SyncBN)])
def test_norms_are_exchanged_and_compute_the_same(norm, kind):
    net = TorchvisionBackbone(RGB, model="mobilenet_v3_small", norm=norm).eval()
    ordinary = TorchvisionBackbone(RGB, model="mobilenet_v3_small").eval()
    for name, tensor in ordinary.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            nn.init.normal_(tensor, std=0.1)
    net.load_state_dict(ordinary.state_dict(), strict=True)
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm | FrozenBN)]
    assert {type(m) for m in norms} == {kind}
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(net(x).values(), ordinary(x).values()):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_images_of_other_channels_get_a_fresh_first_convolution():
    net = TorchvisionBackbone(ShapeSpec(channels=5), model="mobilenet_v2")
    assert net.body.get_submodule("features.0.0").weight.shape == (32, 5, 3, 3)
    assert net(torch.zeros(1, 5, 64, 64))["res5"].shape == (1, 1280, 2, 2)


def test_building_twice_gives_the_same_random_weights():
    trace.cache_clear()
    nets = []
    for _ in range(2):  # the first time the network is traced as well
        torch.manual_seed(3)
        nets.append(TorchvisionBackbone(RGB, model="regnet_y_400mf"))
    for a, b in zip(nets[0].parameters(), nets[1].parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("training", [False, True])
def test_a_deep_copy_computes_the_same_in_the_same_mode(training):
    net = TorchvisionBackbone(RGB, model="mobilenet_v3_small", freeze_at=2).train(training)
    net.body.get_submodule("features.12.1").eval()
    twin = copy.deepcopy(net)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(net(x)["res5"], twin(x)["res5"])
    assert list(twin.state_dict()) == list(net.state_dict())
    mine, theirs = dict(net.named_modules()), dict(twin.named_modules())
    assert list(mine) == list(theirs)
    for name, module in mine.items():
        assert module.training == theirs[name].training, name
        assert name == "body" or type(module) is type(theirs[name]), name  # the traced graph has a class of its own
    assert [p.requires_grad for p in net.parameters()] == [p.requires_grad for p in twin.parameters()]
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in twin.parameters()}


def test_loads_imagenet_weights(shared_data):
    file = shared_data / "weights" / "mobilenet_v2_imagenet.pth"
    state = torch.load(file, weights_only=True)
    for norm in ("BN", "FrozenBN"):
        net = TorchvisionBackbone(RGB, model="mobilenet_v2", weights=str(file), norm=norm, freeze_at=2)
        own = net.body.state_dict()
        assert len(own) > 200
        assert all(torch.equal(value, state[name]) for name, value in own.items())


def test_weights_are_not_read_on_the_meta_device():
    with torch.device("meta"):
        TorchvisionBackbone(RGB, model="mobilenet_v3_small", weights="/nowhere.pth")


def test_weights_of_an_old_densenet_are_renamed(tmp_path):
    state = torchvision.models.densenet121(weights=None).state_dict()
    old = {n.replace("norm1", "norm.1").replace("conv2", "conv.2"): t for n, t in state.items()}
    assert set(old) != set(state)
    torch.save(old, tmp_path / "old.pth")
    net = TorchvisionBackbone(RGB, model="densenet121", weights=str(tmp_path / "old.pth"))
    name = "features.denseblock2.denselayer3.conv2.weight"
    assert torch.equal(net.body.state_dict()[name], state[name])


class Anything:
    """What a state dict has no business to hold."""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no file '.*w.pth'"),
        (b"not a checkpoint", "cannot be read as a state dict"),
        (pickle.dumps(Anything()), "cannot be read as a state dict"),
        ([1, 2], "is no state dict"),
        ({"features.0.0.weight": torch.zeros(3)}, "another network's: .* missing, 0 unknown, 1 of another shape"),
        ("mobilenet_v2", r"another network's: \d+ tensors missing, \d+ unknown"),
    ],
    ids=["missing", "text", "pickle", "list", "shape", "network"],
)
def test_wrong_weights_are_named(tmp_path, content, words):
    file = tmp_path / "w.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(torchvision.models.get_model(content).state_dict() if isinstance(content, str) else content, file)
    with pytest.raises(ValueError, match=words):
        TorchvisionBackbone(RGB, model="mobilenet_v3_small", weights=str(file))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "mobilenetv2"}, "no classification network 'mobilenetv2'. Did you mean 'mobilenet_v2'"),
        ({"model": "vit_b_16"}, "'vit_b_16' does not take images of any size"),
        ({"model": "alexnet"}, "'alexnet' has no map of stride 4, 8, 16 or 32"),
        (
            {"model": "resnet18", "out_features": ("layr3",)},
            "'layr3' does not exist in resnet18. Did you mean 'layer3'",
        ),
        ({"model": "resnet18", "out_features": ("conv1",)}, r"'conv1' gives no map of stride \[4, 8, 16, 32\]"),
        (
            {"model": "resnet18", "out_features": ("maxpool", "res2")},
            "'res2' and 'maxpool' have the same stride 4; to have both, name their parts .*: 'layer1' and 'maxpool'",
        ),
        ({"model": "resnet18", "out_features": ("layer1", "res2")}, "'res2' and 'layer1' are the same map of resnet18"),
        ({"model": "resnet18", "out_features": ("layer1", "layer1.1")}, "'layer1.1' and 'layer1' are the same map"),
        ({"model": "resnet18", "norm_eps": -0.1}, "norm_eps: expected at least 0, got -0.1"),
        ({"model": "convnext_tiny", "norm_eps": 0.1}, "norm_eps: 'convnext_tiny' has no batch norm"),
        ({"model": "resnet18", "out_features": ()}, "expected some of res2, res3, res4, res5, got none"),
        ({"model": "resnet18", "freeze_at": -1}, "freeze_at: expected 0 .* got -1"),
        ({"model": "resnet18", "norm": "GN"}, "norm: expected BN, FrozenBN or SyncBN, got 'GN'"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        TorchvisionBackbone(RGB, **options)
