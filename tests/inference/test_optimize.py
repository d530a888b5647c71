"""``optimized``: a copy that computes the same, faster."""

import copy
from functools import partial

import pytest
import torch
from small import sample, small_model
from torch import nn

from benchmarks.agreement import agreement
from detkit.inference import optimized
from detkit.inference.folding import fold_norms
from detkit.layers import FrozenBN, ShapeSpec
from detkit.modeling.backbones import ResNet, TorchvisionBackbone
from detkit.modeling.compiling import static_parts
from detkit.modeling.roi_heads import Detection
from detkit.structures import Boxes, Instances


def samples(*seeds, height=64, width=96):
    return [sample(height, width, seed=seed) for seed in seeds]


def instances_of(model, batch):
    return [prediction.instances for prediction in model(batch)]


@pytest.fixture(scope="module")
def model():
    """Trained until it overfits two images, so that what it finds is no accident."""
    torch.manual_seed(0)
    model, batch = small_model(score_thresh=0.3), samples(0, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(batch).total().backward()
        optimizer.step()
    return model.eval()


def test_fp32_finds_the_same(model):
    before = copy.deepcopy(model.state_dict())
    batch = samples(0, 1) + samples(2, height=50, width=77)
    expected, found = instances_of(model, batch), instances_of(optimized(model), batch)
    assert sum(map(len, expected)) >= 5
    for a, b in zip(expected, found):
        assert torch.equal(a.classes, b.classes)
        torch.testing.assert_close(b.boxes.tensor, a.boxes.tensor, atol=1e-3, rtol=0)
        torch.testing.assert_close(b.scores, a.scores, atol=1e-5, rtol=0)
        assert (a.masks.tensor != b.masks.tensor).sum() <= a.masks.tensor.sum() * 1e-3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training


def test_bf16_finds_nearly_the_same(model):
    batch = samples(0, 1)
    certain = [found[found.scores >= 0.3 + 0.05] for found in instances_of(model, batch)]
    assert min(map(len, certain)) >= 3
    metrics = agreement(certain, instances_of(optimized(model, "bf16"), batch))
    assert metrics["matched"] == 1  # of those whose score, which may differ by 0.05, is not at the threshold of 0.3
    assert metrics["box IoU"] >= 0.98
    assert metrics["mask IoU"] >= 0.98
    assert metrics["largest score difference"] < 0.05


def test_training_goes_on_beside_the_copy(model):
    trained = copy.deepcopy(model).train()
    fast = optimized(trained)
    assert trained.training
    assert not fast.training
    trained(samples(0)).total().backward()
    assert all(not p.requires_grad for p in fast.parameters())


def test_no_image_and_no_detection(model):
    strict = copy.deepcopy(model)
    strict.roi_heads.box_head.detection = Detection(score_thresh=0.9999)
    (found,) = instances_of(optimized(strict, "bf16"), samples(7))
    assert len(found) == 0
    assert found.masks.shape == (0, 64, 96)


def with_random_norms(module):
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d | FrozenBN):
            for name, low, high in (("weight", 0.5, 1.5), ("bias", -1, 1), ("running_mean", -1, 1)):
                nn.init.uniform_(getattr(norm, name), low, high)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return module.eval()


@pytest.mark.parametrize(
    "make",
    [
        partial(ResNet, depth=50, width=8, norm="FrozenBN"),
        partial(ResNet, depth=50, width=8, norm="BN", conv_bias=True, stem_pool="same"),
        partial(ResNet, depth=18, width=8, norm="GN"),
        partial(TorchvisionBackbone, model="mobilenet_v3_small"),
        partial(TorchvisionBackbone, model="resnet18"),
    ],
    ids=["bottlenecks", "batch norm and bias", "group norm", "sequential", "others"],
)
def test_backbones_give_the_same_maps(make):
    torch.manual_seed(0)
    backbone = with_random_norms(make(ShapeSpec(channels=3)))
    image = torch.randn(2, 3, 64, 96)
    expected = backbone(image)
    for precision, tolerance in (("fp32", 1e-5), ("bf16", 0.05)):
        found = optimized(backbone, precision)(image)
        for name, wanted in expected.items():
            error = (found[name].float() - wanted).norm() / wanted.norm()
            assert error < tolerance, (name, precision, float(error))


def test_norms_that_look_at_the_map_are_not_folded():
    part = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 4, 1)).eval()
    fold_norms(part)
    assert isinstance(part[1], nn.BatchNorm2d)


def test_an_unknown_precision_is_refused(model):
    with pytest.raises(ValueError, match=r"expected one of fp32, bf16, got 'fp8'"):
        optimized(model, "fp8")


def test_agreement_pairs_the_best_overlaps_of_a_class():
    truth = Instances((10, 10), boxes=Boxes([[0, 0, 4, 4], [0, 0, 4, 4], [5, 5, 9, 9]]), scores=torch.ones(3))
    truth = truth.with_fields(classes=torch.tensor([0, 1, 0]))
    found = Instances((10, 10), boxes=Boxes([[5, 5, 9, 8], [0, 0, 4, 3], [0, 0, 4, 4]]), scores=torch.full((3,), 0.9))
    found = found.with_fields(classes=torch.tensor([0, 0, 0]))
    metrics = agreement([truth], [found])
    assert metrics["matched"] == pytest.approx(2 / 3)
    assert metrics["box IoU"] == pytest.approx((1 + 0.75) / 2)
    assert metrics["largest score difference"] == pytest.approx(0.1)


@pytest.mark.slow
def test_after_two_shapes_other_sizes_compile_nothing_again(model, monkeypatch):
    compile_module = nn.Module.compile  # what is compiled again is decided before the backend, which takes minutes
    monkeypatch.setattr(nn.Module, "compile", lambda part, **options: compile_module(part, backend="eager", **options))
    lenient = copy.deepcopy(model)
    lenient.roi_heads.box_head.detection = Detection(score_thresh=0.0)
    fast = optimized(lenient, compile=True)
    assert len(list(static_parts(fast))) >= 4
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters["stats"]
    start = counters["unique_graphs"]
    batch = samples(0, height=192, width=224)  # no side of a map is 1 or a number of channels, which torch would note
    metrics = agreement(instances_of(lenient, batch), instances_of(fast, batch))
    assert metrics["matched"] > 0.98
    assert metrics["box IoU"] > 0.999
    fast(samples(0, height=320, width=224))
    before = counters["unique_graphs"]
    assert before > start
    for height, width in ((224, 192), (160, 288), (352, 256), (192, 320)):
        fast(samples(0, height=height, width=width))
    assert counters["unique_graphs"] == before


class ReadsItsWeights(nn.Module):
    """Attention of timm and torchvision does so: it reads the weights of a linear layer instead of calling it."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        return nn.functional.linear(x, self.qkv.weight, self.qkv.bias)


def test_linear_layers_whose_weights_another_module_reads_stay_as_they_are():
    net, x = nn.Sequential(nn.Linear(8, 8), ReadsItsWeights()), torch.randn(5, 8)
    with torch.no_grad():
        torch.testing.assert_close(optimized(net)(x), net(x))


def test_norms_of_a_traced_network_are_folded_where_the_convolution_feeds_nothing_else():
    backbone = with_random_norms(TorchvisionBackbone(ShapeSpec(channels=3), model="mobilenet_v2", norm="FrozenBN"))
    fast, image = optimized(backbone), torch.randn(1, 3, 64, 96)
    assert not any(isinstance(part, nn.BatchNorm2d | FrozenBN) for part in fast.modules())
    for name, wanted in backbone(image).items():
        torch.testing.assert_close(fast(image)[name], wanted, atol=1e-4, rtol=1e-3)
    dense = with_random_norms(TorchvisionBackbone(ShapeSpec(channels=3), model="densenet121"))
    for name, wanted in dense(image).items():  # norms before convolutions, which are none's
        torch.testing.assert_close(optimized(dense)(image)[name], wanted, atol=1e-4, rtol=1e-3)
