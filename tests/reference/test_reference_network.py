"""Rows of the reference implementation's table: the network. Each test is named after its row."""

import math

import numpy as np
import pytest
import reference_oracles as oracles
import torch
from torch import nn
from torch.nn import functional as F

from detkit.layers import FrozenBN, SamePad2d, ShapeSpec
from detkit.modeling.proposals import SoftmaxRPNHead
from detkit.structures import Boxes, Instances


@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride"), [(5, 8, 3, 2), (8, 5, 3, 2), (7, 7, 3, 1), (6, 9, 4, 3)]
)
def test_same_pad_2d(height, width, kernel, stride, small):
    """SamePad2d: TensorFlow's SAME padding, each side by its own length; the stem's max-pool uses it (k3, s2)."""
    x = torch.rand(1, 2, height, width)
    pads = []
    for side in (height, width):
        total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        pads.append((total // 2, total - total // 2))
    expected = np.pad(x.numpy(), [(0, 0), (0, 0), *pads])
    padded = SamePad2d(kernel, stride)(x)
    assert np.array_equal(padded.numpy(), expected)
    out = F.conv2d(padded, torch.ones(1, 2, kernel, kernel), stride=stride)
    assert out.shape[2:] == (math.ceil(height / stride), math.ceil(width / stride))
    image = torch.randn(1, 3, 64, 96)
    conv = small.backbone.stem.conv1(image)  # 32 x 48: even sides, so the padding is right and below alone
    windows = F.pad(conv, (0, 1, 0, 1)).unfold(2, 3, 2).unfold(3, 3, 2)
    stem = small.backbone.stem(image)
    assert torch.equal(stem, windows.amax((4, 5)))
    usual = F.max_pool2d(conv, 3, 2, padding=1)
    assert (stem - usual).abs().max() > 0.5 * usual.abs().max()


@pytest.mark.parametrize(("depth", "blocks"), [(50, [3, 4, 6, 3]), (101, [3, 4, 23, 3])])
def test_resnet_c1_c5(depth, blocks, meta_models, preset):
    """ResNet C1..C5: stride on the first 1x1, convs with bias, BN of eps 1e-3 always frozen, C5 can be left out."""
    backbone = meta_models[depth].backbone.train()
    stages = [backbone.get_submodule(f"res{n}") for n in range(2, 6)]
    assert [len(stage) for stage in stages] == blocks
    stem = backbone.stem.conv1
    assert (stem.kernel_size, stem.stride, stem.padding, stem.out_channels) == ((7, 7), (2, 2), (3, 3), 64)
    for number, stage in enumerate(stages):
        stride = 1 if number == 0 else 2
        for index, block in enumerate(stage):
            first = stride if index == 0 else 1  # the stage's stride and shortcut belong to its first block alone
            assert (block.conv1.kernel_size, block.conv1.stride) == ((1, 1), (first, first))
            assert (block.conv2.kernel_size, block.conv2.stride) == ((3, 3), (1, 1))
            assert (block.conv3.kernel_size, block.conv3.out_channels) == ((1, 1), 256 * 2**number)
            assert (block.shortcut is not None) == (index == 0)
            if index == 0:
                assert block.shortcut.stride == (stride, stride)
    convs = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    norms = [conv.norm for conv in convs]
    assert all(conv.bias is not None for conv in convs)
    assert {(type(norm), norm.eps) for norm in norms} == {(FrozenBN, 1e-3)}
    assert not any(list(norm.parameters()) for norm in norms), "frozen: in training too nothing of a norm learns"
    four = preset("model.backbone.out_features=[res2, res3, res4]").model.kwargs["backbone"](ShapeSpec(channels=3))
    assert not hasattr(four, "res5")


def test_resnet_c1_c5_norms(small):
    """ResNet C1..C5: the norms in numbers, also while the model trains."""
    conv = small.train().backbone.res2[0].conv3
    x = torch.randn(1, conv.in_channels, 6, 5)
    raw = F.conv2d(x, conv.weight, conv.bias)
    mean, var, weight, bias = (
        getattr(conv.norm, kind)[:, None, None] for kind in ("running_mean", "running_var", "weight", "bias")
    )
    before = conv.norm.running_mean.clone()
    assert torch.allclose(conv(x), (raw - mean) / (var + 1e-3).sqrt() * weight + bias, atol=1e-4)
    assert torch.equal(conv.norm.running_mean, before)


def test_top_down_layer_fpn(small, meta_models):
    """TopDownLayer, FPN: lateral 1x1, nearest x2, sum, 3x3 SAME, 256 channels; P6 is every second of P5, RPN only."""
    neck, sides = small.neck, {"res2": (32, 48), "res3": (16, 24), "res4": (8, 12), "res5": (4, 6)}
    features = {name: torch.randn(2, neck.laterals[name].in_channels, *side) for name, side in sides.items()}
    expected, top = {}, None
    for n in (5, 4, 3, 2):
        lateral, output = neck.laterals[f"res{n}"], neck.outputs[f"res{n}"]
        assert lateral.norm is None is output.norm
        y = F.conv2d(features[f"res{n}"], lateral.weight, lateral.bias)
        top = y if top is None else y + top.repeat_interleave(2, 2).repeat_interleave(2, 3)
        expected[f"p{n}"] = F.conv2d(F.pad(top, (1, 1, 1, 1)), output.weight, output.bias)
    expected["p6"] = expected["p5"][:, :, ::2, ::2]
    maps = neck(features)
    assert set(maps) == set(expected)
    for name, value in expected.items():
        assert torch.allclose(maps[name], value, atol=1e-5), name
    for model in meta_models.values():
        assert {spec.channels for spec in model.neck.output_shape.values()} == {256}
        assert model.proposal_generator.in_features == ("p2", "p3", "p4", "p5", "p6")
        for head in (model.roi_heads.box_head, model.roi_heads.mask_head):
            assert head.pooler.in_features == ("p2", "p3", "p4", "p5")


def test_rpn(small, meta_models, preset):
    """RPN: a shared 3x3 conv to 512, two classes an anchor by softmax, four deltas, an anchor stride."""
    for model in meta_models.values():
        head = model.proposal_generator.head
        assert isinstance(head, SoftmaxRPNHead)
        assert head.convs[0].weight.shape == (512, 256, 3, 3)
        assert (head.class_logits.out_channels, head.anchor_deltas.out_channels) == (6, 12)
    head, x = small.proposal_generator.head, torch.randn(2, 16, 9, 6)
    nn.init.normal_(head.class_logits.weight)
    hidden = F.relu(F.conv2d(x, head.convs[0].weight, head.convs[0].bias, padding=1))
    pairs = F.conv2d(hidden, head.class_logits.weight, head.class_logits.bias).reshape(2, 3, 2, 9, 6)
    (objectness,), (deltas,) = head([x])
    assert torch.allclose(objectness.sigmoid(), pairs.softmax(2)[:, :, 1], atol=1e-5)
    assert torch.allclose(deltas, F.conv2d(hidden, head.anchor_deltas.weight, head.anchor_deltas.bias), atol=1e-5)
    sparse = preset("model.neck.out_channels=16", "model.proposal_generator.head.anchor_stride=2").model
    shapes = {f"p{n}": ShapeSpec(channels=16, stride=2**n) for n in range(2, 7)}
    generator = sparse.kwargs["proposal_generator"](shapes)
    maps = [torch.zeros(1, 16, side, side + 3) for side in (33, 17, 9, 5, 3)]
    objectness, _ = generator.head(maps)
    levels = generator.anchor_generator(objectness, (132, 144))
    for n, (level, scores, feature) in enumerate(zip(levels, objectness, maps)):
        wanted = oracles.anchors(32 * 2**n, [0.5, 1, 2], feature.shape[2:], 4 * 2**n, 2)
        assert scores[0].numel() == len(level) == len(wanted)
        assert np.allclose(oracles.swap(level.tensor), wanted, atol=1e-3)


@pytest.mark.parametrize("depth", [50, 101])
def test_anchors(depth, meta_models, preset):
    """anchors: 32..512, one scale a level; ratios 0.5, 1, 2 as width/height, in this order; on the grid points."""
    generator = preset(depth=depth).model.kwargs["proposal_generator"].kwargs["anchor_generator"]
    strides = [4, 8, 16, 32, 64]
    build = generator([ShapeSpec(channels=256, stride=s) for s in strides])
    padded = (256, 320)
    maps = [torch.zeros(1, 1, padded[0] // s, padded[1] // s) for s in strides]
    for level, feature, stride, scale in zip(build(maps, padded), maps, strides, (32, 64, 128, 256, 512)):
        wanted = oracles.anchors(scale, [0.5, 1, 2], feature.shape[2:], stride, 1)
        assert np.allclose(oracles.swap(level.tensor), wanted, atol=1e-3)
    assert meta_models[depth].proposal_generator.anchor_generator.num_anchors == [3] * 5


def test_box_deltas(small):
    """box deltas: (dy, dx, log dh, log dw) / (0.1, 0.1, 0.2, 0.2) in both stages; the log terms are not clamped."""
    rng = np.random.default_rng(0)
    corner, side, shift = rng.uniform(0, 500, (40, 2)), rng.uniform(5, 300, (40, 2)), rng.uniform(-9, 9, (40, 4))
    boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
    truth = (boxes + shift * 0.2).astype(np.float32)
    assert vars(small.proposal_generator.box_coder) == vars(small.roi_heads.box_head.box_coder)
    coder = small.proposal_generator.box_coder
    ours = coder.encode(torch.from_numpy(boxes), torch.from_numpy(truth)).numpy()
    theirs = [oracles.refinement(b, t) for b, t in zip(oracles.swap(boxes), oracles.swap(truth))]
    assert np.allclose(oracles.swap(ours), theirs, atol=2e-3)
    moves = rng.normal(0, 3, (40, 4)).astype(np.float32)
    moves[0, 2:] = 40, 30  # e**8 and e**6 times as large
    moved = coder.decode(torch.from_numpy(boxes), torch.from_numpy(moves)).numpy()
    wanted = [oracles.apply_deltas(b, d) for b, d in zip(oracles.swap(boxes).astype(float), oracles.swap(moves))]
    assert np.allclose(oracles.swap(moved), wanted, rtol=1e-4, atol=1e-2)
    assert moved[0, 2] - moved[0, 0] > 2900 * side[0, 0]


def test_pyramid_roi_align(small):
    """pyramid RoI align: level by rounding, one bilinear sample a bin, 0 outside, the boxes' order, no gradient."""
    box_pooler, mask_pooler = small.roi_heads.box_head.pooler, small.roi_heads.mask_head.pooler
    assert (box_pooler.output_size, mask_pooler.output_size) == (7, 14)
    sides = [10, 60, 79, 80, 150, 224 * 2**0.49, 224 * 2**0.51, 700, 2000]
    boxes = torch.tensor([[0, 0, side * 2, side / 2] for side in sides])
    wanted = [min(max(round(4 + math.log2(side / 224)), 2), 5) - 2 for side in sides]
    assert box_pooler.assign_levels(Boxes(boxes)).tolist() == wanted
    assert len(set(wanted)) == 4
    height, width = 128, 192
    maps = {f"p{n}": torch.randn(2, 16, height >> n, width >> n) for n in range(2, 6)}
    first = torch.tensor([[0.0, 0, 190, 120], [30, 20, 60, 100], [-20, -10, 50, 60], [120, 90, 260, 150]])
    second = torch.tensor([[5.0, 6, 300, 400], [10, 10, 30, 30]], requires_grad=True)
    features = {name: value.requires_grad_() for name, value in maps.items()}
    pooled = box_pooler(features, [Boxes(first), Boxes(second)])
    rows = [(0, box) for box in first.tolist()] + [(1, box) for box in second.tolist()]
    for result, (image, (x1, y1, x2, y2)) in zip(pooled, rows, strict=True):
        level = min(max(round(4 + math.log2(math.sqrt((x2 - x1) * (y2 - y1)) / 224)), 2), 5)
        feature = maps[f"p{level}"][image, 3].detach().numpy()
        parts = (y1 / height, x1 / width, y2 / height, x2 / width)
        assert np.allclose(result[3].detach(), oracles.crop_and_resize(feature, parts, 7), atol=1e-4)
    pooled.sum().backward()
    assert second.grad is None
    assert maps["p2"].grad.abs().sum() > 0


def test_classifier_head(small, meta_models):
    """Classifier head: 7x7 conv to 1024 + BN + ReLU, 1x1 conv + BN + ReLU, class scores, box deltas a class."""
    for model in meta_models.values():
        head = model.roi_heads.box_head
        assert [tuple(conv.weight.shape) for conv in head.convs] == [(1024, 256, 7, 7), (1024, 1024, 1, 1)]
        assert {(type(conv.norm), conv.norm.eps) for conv in head.convs} == {(FrozenBN, 1e-3)}
        assert (head.cls_score.out_features, head.bbox_pred.out_features) == (81, 320)
    head, pooled = small.roi_heads.box_head, torch.randn(5, 16, 7, 7)
    head.pooler.forward = lambda features, boxes: pooled
    x = pooled
    for conv in head.convs:
        x = F.relu(_norm(conv, F.conv2d(x, conv.weight, conv.bias)))
    logits, deltas = head({}, [])
    assert torch.allclose(logits, F.linear(x[:, :, 0, 0], head.cls_score.weight, head.cls_score.bias), atol=1e-5)
    assert torch.allclose(deltas, F.linear(x[:, :, 0, 0], head.bbox_pred.weight, head.bbox_pred.bias), atol=1e-5)
    assert (logits.shape, deltas.shape) == ((5, 4), (5, 12))


def test_mask_head(small, meta_models):
    """Mask head: 4 x (3x3 conv 256 + BN + ReLU), 2x2 deconv s2 + ReLU, 1x1 conv to classes, sigmoid; 14 -> 28."""
    for model in meta_models.values():
        head = model.roi_heads.mask_head
        assert [tuple(conv.weight.shape) for conv in head.convs] == [(256, 256, 3, 3)] * 4
        assert all(conv.bias is not None for conv in head.convs)
        assert {(type(conv.norm), conv.norm.eps) for conv in head.convs} == {(FrozenBN, 1e-3)}
        assert (head.deconv.kernel_size, head.deconv.stride, head.deconv.out_channels) == ((2, 2), (2, 2), 256)
        assert head.predictor.weight.shape == (80, 256, 1, 1)
    head, pooled = small.roi_heads.mask_head, torch.randn(4, 16, 14, 14)
    nn.init.normal_(head.predictor.weight)
    head.pooler.forward = lambda features, boxes: pooled
    x = pooled
    for conv in head.convs:
        x = F.relu(_norm(conv, F.conv2d(x, conv.weight, conv.bias, padding=1)))
    x = F.relu(F.conv_transpose2d(x, head.deconv.weight, head.deconv.bias, stride=2))
    probs = F.conv2d(x, head.predictor.weight, head.predictor.bias).sigmoid()
    classes = torch.tensor([2, 0, 1, 1])
    (found,) = head.predict({}, [Instances((64, 64), boxes=Boxes(torch.rand(4, 4)), classes=classes)])
    assert found.mask_probs.shape == (4, 28, 28)
    assert torch.allclose(found.mask_probs, probs[torch.arange(4), classes], atol=1e-5)


def _norm(conv, x):
    norm = conv.norm
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3)
