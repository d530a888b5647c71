"""TimmBackbone: the maps of timm's own networks, of any family, and a detector that learns from them."""

import copy
import itertools
import json
import pickle

import pytest
import torch
from small import sample

from detkit.config import ConfigError
from detkit.doctor import CheckContext
from detkit.doctor.weights import BackbonePixels
from detkit.experiment import load_experiment
from detkit.inference import optimized
from detkit.layers import FrozenBN, ShapeSpec, SyncBN, freeze
from detkit.modeling.backbones import TimmBackbone
from detkit.modeling.preprocess import Preprocess

timm = pytest.importorskip("timm", reason="pip install 'detkit[timm]'")
RGB = ShapeSpec(channels=3)

ONE_SIZE = {"img_size": 96}
PATCHES_OF_16 = {"model_args": {"patch_size": 16}}
FAMILIES = {
    "test_convnext": {},
    "test_convnext2": {},
    "test_vit": {},
    "test_efficientnet": {},
    "test_nfnet": {},
    "test_mambaout": {},
    "test_byobnet": {},
    "test_resnet": {},
    "mobilenetv4_conv_small_035": {},
    "regnetx_002": {},
    "ghostnet_050": {},
    "lcnet_035": {},
    "inception_next_atto": {},
    "edgenext_xx_small": {},
    "pvt_v2_b0": {},
    "fastvit_t8": {},
    "cs3darknet_focus_s": {},
    "dla46x_c": {},
    "hrnet_w18_small": {},
    "mobileone_s0": {},
    "resnest14d": {},
    "densenet121": {},
    "resnetv2_18": {},
    "tiny_vit_5m_224": {},
    "convnextv2_atto": {},
    "resnet10t": {},
    "vit_tiny_patch16_224": {},
    "eva02_tiny_patch14_224": PATCHES_OF_16,
    "vit_small_patch14_dinov2": PATCHES_OF_16,
    "swin_tiny_patch4_window7_224": {},
    "swinv2_tiny_window8_256": {},
    "hiera_tiny_224": ONE_SIZE,
    "test_coatnet": {"img_size": 160},
    "maxvit_tiny_rw_224": {},
    "mobilevit_xxs": {},
    "xcit_nano_12_p16_224": {},
    "coat_lite_tiny": {"img_size": 224},
    "repvit_m1": {},
    "efficientformerv2_s0": {"img_size": 224},
    "starnet_s050": {},
    "hgnetv2_b0": {},
    "vgg11": {},
}
FAST = ["test_convnext2", "test_vit", "test_efficientnet", "mobilenetv4_conv_small_035", "test_mambaout"]
FAST.append("test_coatnet")
"""What they have between them: maps channels last and first, 4 and 5 of them and one stride alone, one size alone,
norms with activations."""


def backbone(model: str, **more) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone(RGB, model=model, **{**FAMILIES.get(model, {}), **more})


def image_size(net: TimmBackbone) -> tuple[int, int]:
    step = net.size_divisibility
    return (net.square_size,) * 2 if net.square_size else (step * -(-64 // step), step * -(-96 // step))


def check_equal_maps(model: str) -> None:
    net = backbone(model).eval()
    if net.square_size:
        flexible = [FAMILIES[model]] if net.square_size != timm.get_pretrained_cfg(model).input_size[-1] else [{}]
    else:
        flexible = [{}, {"dynamic_img_size": True}, {"strict_img_size": False}]
    images = torch.randn(2, 3, *image_size(net))
    own = None
    for arguments in flexible:
        try:
            torch.manual_seed(0)  # the same random weights: a backbone draws no others
            whole = timm.create_model(model, features_only=True, **arguments, **FAMILIES[model].get("model_args", {}))
            own = whole.eval()(images)
            break
        except (TypeError, AssertionError, RuntimeError):
            continue
    assert own is not None
    own = [m.permute(0, 3, 1, 2) if "NHWC" in str(getattr(whole, "output_fmt", "")) else m for m in own]
    maps = net(images)
    assert list(maps) == list(net.output_shape)
    strides = [shape.stride for shape in net.output_shape.values()]
    assert strides == sorted(set(strides)), "finest first, one of each stride"
    for name, got in maps.items():
        shape = net.output_shape[name]
        assert got.shape == (2, shape.channels, *(side // shape.stride for side in images.shape[2:]))
        assert any(got.shape == m.shape and torch.equal(got, m) for m in own), name


LEVELS_3_TO_7 = {"top_block": {"name": "LastLevelP6P7", "in_feature": "p5"}}
DETECTORS = {"quick_start/mask_rcnn_shapes": {}, "coco/retinanet_R_50_FPN_1x": LEVELS_3_TO_7}


def check_step(config: str, model: str) -> None:
    """One step of gradient descent: the loss is finite, and every parameter that a map depends on learns."""
    own = {"name": "TimmBackbone", "model": model, **FAMILIES[model]}
    neck = {"name": "FPN", "out_channels": 16, **DETECTORS[config]}
    dense = bool(DETECTORS[config])
    if len(backbone(model).output_shape) == 1:
        neck |= {"name": "SimpleFeaturePyramid"} | ({"scales": [2.0, 1.0, 0.5]} if dense else {})
    elif dense:
        own["out_indices"] = [-3, -2, -1]  # what leads to a finer map alone would not learn
    overrides = [f"model.backbone={json.dumps(own)}", f"model.neck={json.dumps(neck)}"]
    detector = load_experiment(config, overrides).build_model(3).train()
    side = min(96, detector.backbone.square_size or 96)
    losses = detector([sample(side - 32, side, seed=1), sample(side - 16, side - 32, seed=2)])
    losses.total().backward()
    assert losses.total().isfinite()
    learning = {name: p for name, p in detector.backbone.named_parameters() if p.requires_grad}
    assert [name for name, p in learning.items() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("model", FAST)
def test_maps_are_timms_own(model):
    check_equal_maps(model)


@pytest.mark.slow
@pytest.mark.parametrize("model", [model for model in FAMILIES if model not in FAST])
def test_maps_are_timms_own_in_every_family(model):
    check_equal_maps(model)


@pytest.mark.parametrize("model", FAST)
def test_a_detector_learns_from_it(model):
    check_step("quick_start/mask_rcnn_shapes", model)


def test_a_one_stage_detector_learns_from_it():
    check_step("coco/retinanet_R_50_FPN_1x", "test_vit")


@pytest.mark.slow
@pytest.mark.parametrize(("config", "model"), list(itertools.product(DETECTORS, FAMILIES)))
def test_detectors_learn_from_every_family(config, model):
    check_step(config, model)


def test_chosen_maps_are_named_by_stride_in_any_order():
    assert list(backbone("test_resnet", out_indices=(-1, 1, 2)).output_shape) == ["res2", "res3", "res5"]
    several = backbone("test_vit", out_indices=(5, 2))
    assert list(several.output_shape) == ["res4", "res4_2"]
    images = torch.randn(1, 3, 32, 48)
    assert torch.equal(several.eval()(images)["res4_2"], backbone("test_vit").eval()(images)["res4"])


def test_arguments_may_be_nested():
    net = backbone("test_resnet", model_args={"block_args": {"attn_layer": "eca"}})
    assert any("eca" in type(module).__name__.lower() for module in net.modules())


def test_other_channels_than_three():
    net = TimmBackbone(ShapeSpec(channels=5), model="test_resnet")
    assert net(torch.randn(1, 5, 64, 64))["res5"].shape[2:] == (2, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "test_resne"}, ["no network 'test_resne'", "Did you mean 'test_resnet"]),
        ({"model": "test_resnet", "model_args": {"depth_": 3}}, ["cannot make", "depth_=3"]),
        ({"model": "test_resnet", "out_indices": (0, 9)}, ["out_indices: expected some", "got [0, 9]"]),
        ({"model": "test_resnet", "img_size": 224}, ["img_size: 'test_resnet' has no such argument; leave it out"]),
        ({"model": "test_vit", "img_size": 100}, ["img_size: 100 does not suit", "its own is 160"]),
        ({"model": "levit_128s"}, ["levit_128s", "one size alone", "img_size: 224"]),
        ({"model": "test_resnet", "weights": "no.pth"}, ["weights: there is no file 'no.pth'"]),
        ({"model": "test_resnet", "freeze_at": 6}, ["freeze_at: expected 0"]),
    ],
)
def test_what_does_not_fit_is_said(options, words):
    with pytest.raises(ValueError, match=r".") as error:
        TimmBackbone(RGB, **options)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("model", ["test_efficientnet", "test_resnet"])
def test_frozen_and_synchronised_norms_compute_what_batch_norms_do(model):
    """Also those that end with an activation, as timm's do."""
    images = torch.randn(2, 3, 64, 64)
    plain = backbone(model).train()
    plain(images)  # running statistics that are not those of the start
    want = plain.eval()(images)
    for norm, kind in (("FrozenBN", FrozenBN), ("SyncBN", SyncBN)):
        other = backbone(model, norm=norm)
        assert any(isinstance(m, kind) for m in other.modules())
        assert other.state_dict().keys() <= plain.state_dict().keys()
        other.load_state_dict({k: v for k, v in plain.state_dict().items() if k in other.state_dict()})
        for name, value in other.eval()(images).items():
            torch.testing.assert_close(value, want[name])
    frozen = freeze(copy.deepcopy(plain)).train()(images)
    torch.testing.assert_close(frozen["res5"], want["res5"])


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "SyncBN"])
def test_what_leads_to_the_maps_of_a_stride_is_frozen_with_every_norm(norm):
    net, free = backbone("test_resnet", freeze_at=3, norm=norm), backbone("test_resnet", norm=norm)
    before = copy.deepcopy(net.state_dict())
    maps = net.train()(torch.randn(2, 3, 64, 64))
    assert not maps["res2"].requires_grad
    assert not maps["res3"].requires_grad
    maps["res5"].sum().backward()
    learning = [name for name, p in net.named_parameters() if p.requires_grad]
    assert learning
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    assert sum(isinstance(m, FrozenBN) for m in net.modules()) > 3
    frozen = {n for n, p in free.named_parameters() if p.requires_grad} - set(learning)
    drifted = {name.rpartition(".")[0] for name, value in net.state_dict().items() if not value.equal(before[name])}
    assert drifted.isdisjoint(name.rpartition(".")[0] for name in frozen)
    assert not any(p.requires_grad for p in backbone("test_resnet", freeze_at=5, norm=norm).parameters())


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_norms_that_lead_to_no_map_do_not_learn(norm):
    net = backbone("test_resnet", out_indices=(1,), norm=norm)
    net.train()(torch.randn(2, 3, 64, 64))["res2"].sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters())


def test_layers_cover_the_network_in_order():
    for model in ("test_convnext", "test_vit"):
        net = backbone(model)
        names = [name for layer in net.layers() for name in layer]
        covered = [n for n, _ in net.named_parameters() if n.startswith(tuple(f"{name}." for name in names))]
        rest = [n for n, _ in net.named_parameters() if n not in covered]
        assert all(n.count(".") <= 2 for n in rest), "tokens and positions alone"
        assert len(names) > 4


def test_copies_pickles_and_the_fast_copy_give_the_same():
    images = torch.randn(1, 3, 64, 64)
    for model in ("test_efficientnet", "test_vit"):
        net = backbone(model).eval()
        with torch.no_grad():
            want = net(images)
            for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), optimized(net)):
                for name, value in other(images).items():
                    torch.testing.assert_close(value, want[name], atol=1e-4, rtol=1e-4)


def test_weights_of_a_file(tmp_path):
    whole = timm.create_model("test_vit")
    torch.save({"model": whole.state_dict()}, tmp_path / "whole.pth")
    net = backbone("test_vit", weights=str(tmp_path / "whole.pth")).eval()
    own = dict(whole.state_dict())
    for name, value in net.body.state_dict().items():
        assert torch.equal(value, own[name.removeprefix("model.")]), name
    larger = backbone("test_vit", weights=str(tmp_path / "whole.pth"), img_size=320)
    assert larger.square_size == 320
    assert torch.equal(larger.body.state_dict()["model.cls_token"], own["cls_token"])
    for model in ("test_vit2", "test_resnet"):
        with pytest.raises(ValueError, match=r"weights: .* is another network's"):
            backbone(model, weights=str(tmp_path / "whole.pth"))


def shapes(*more: str):
    overrides = ["model.backbone={name: TimmBackbone, model: test_resnet, weights: true}", *more]
    return load_experiment("quick_start/mask_rcnn_shapes", overrides)


def test_weights_that_cannot_be_had_are_said_before_data_are_read(monkeypatch, tmp_path):
    monkeypatch.setenv("DETKIT_OFFLINE", "1")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"model.backbone.weights: timm://test_resnet\.r160_in1k .*OFFLINE.*null"):
        shapes().fetch_weights()
    assert shapes().names_weights
    shapes("model.backbone.weights=null").fetch_weights()


NULL = "model.preprocess={pixel_mean: null, pixel_std: null, channel_order: RGB, pixel_scale: 1}"


def test_pixels_are_normalised_as_the_weights_want_it():
    preprocess = Preprocess(pixel_mean=None, pixel_std=None)
    preprocess.adapt_to(backbone("test_resnet"), None)
    assert preprocess.pixel_mean.flatten().tolist() == [127.5] * 3
    assert preprocess.pixel_std.flatten().tolist() == [127.5] * 3
    assert preprocess.num_channels == 3
    for options in ({"pixel_std": (1.0, 1.0, 1.0)}, {"pixel_std": None, "channel_order": "BGR"}):
        with pytest.raises(ValueError, match="null takes the backbone's own"):
            Preprocess(pixel_mean=None, **options)


def test_the_doctor_finds_pixels_of_other_weights():
    for experiment, count in ((shapes(), 1), (shapes(NULL), 0), (shapes("model.backbone.weights=null"), 0)):
        context = CheckContext(experiment)
        context.model = experiment.build_model(3, pretrained=False)
        findings = list(BackbonePixels()(context))
        assert [finding.severity for finding in findings] == ["warning"] * count
        assert all("[127.5, 127.5, 127.5]" in finding.what for finding in findings)
