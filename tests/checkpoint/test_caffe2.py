"""Importing Caffe2's backbones and the first Detectron's models."""

import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from detkit.checkpoint import load_weights
from detkit.checkpoint.formats.caffe2 import Caffe2Importer
from detkit.layers import ConvNorm, ShapeSpec
from detkit.modeling.backbones import ResNet

BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}


def blobs(norm="bn", bias=False):
    """What MSRA's R-50.pkl has, in small."""
    names = {"conv1_w": (8, 3, 7, 7), f"res_conv1_{norm}_s": (8,), f"res_conv1_{norm}_b": (8,)}
    names |= {"fc1000_w": (9, 9), "fc1000_b": (9,), "conv1_w_momentum": (8, 3, 7, 7)}
    for stage, count in BLOCKS.items():
        inner, out = 8 * 2 ** (stage - 2), 32 * 2 ** (stage - 2)
        for i in range(count):
            into = (8 if stage == 2 else out // 2) if i == 0 else out
            convs = {"2a": (inner, into, 1, 1), "2b": (inner, inner, 3, 3), "2c": (out, inner, 1, 1)}
            for branch, shape in {**convs, **({"1": (out, into, 1, 1)} if i == 0 else {})}.items():
                blob = f"res{stage}_{i}_branch{branch}"
                names |= {f"{blob}_w": shape, f"{blob}_{norm}_s": shape[:1], f"{blob}_{norm}_b": shape[:1]}
                names |= {f"{blob}_b": shape[:1]} if bias else {}
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype("float32") for name, shape in names.items()}


def tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def network(**options):
    return ResNet(ShapeSpec(channels=3), depth=50, width=8, freeze_at=0, **options)


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: {"blobs": b, "cfg": "NUM_GPUS: 8"}])
@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_a_backbone_file_fills_the_backbone(tmp_path, wrap, norm):
    path, source = tmp_path / "R-50.pkl", blobs()
    path.write_bytes(pickle.dumps(wrap(source), protocol=2))
    model = torch.nn.ModuleDict({"backbone": network(norm=norm)})
    report = load_weights(model, path, strict=True)
    assert report.format == "Caffe2"
    assert report.complete
    assert report.unused == {
        "fc1000_w": "classifier: a detector has its own",
        "fc1000_b": "classifier: a detector has its own",
        "conv1_w_momentum": "the optimizer's momentum",
    }
    state = model["backbone"].state_dict()
    for ours, theirs in (
        ("stem.conv1.weight", "conv1_w"),
        ("stem.conv1.norm.weight", "res_conv1_bn_s"),
        ("res4.5.conv3.norm.bias", "res4_5_branch2c_bn_b"),
        ("res5.0.shortcut.weight", "res5_0_branch1_w"),
        ("res3.1.conv2.weight", "res3_1_branch2b_w"),
    ):
        assert np.array_equal(state[ours], source[theirs])
        assert report.renamed[f"backbone.{ours}"] == theirs
    assert report.changed["backbone.stem.conv1.norm.running_var"].startswith("mean 0 and variance 1")
    assert load_weights(network(norm=norm), path, strict=True).complete  # a backbone on its own


def test_a_norm_without_statistics_runs_as_in_detectron2():
    """Its FrozenBatchNorm2d takes mean 0 and variance 1 where a file has none, and adds its epsilon to the variance."""
    conv = ConvNorm(3, 8, 7, norm="FrozenBN")
    state = tensors(blobs())
    imported = Caffe2Importer().convert(state, {})
    conv.load_state_dict({k.split("conv1.")[1]: v for k, v in imported.model.items() if k.startswith("backbone.stem")})
    x = torch.randn(1, 3, 9, 9)
    plain = F.conv2d(x, state["conv1_w"], padding=3)
    scale, shift = (state[f"res_conv1_bn_{kind}"][:, None, None] for kind in "sb")
    assert torch.allclose(conv(x), plain * scale / (1 + 1e-5) ** 0.5 + shift, atol=1e-5)


def test_statistics_that_a_file_has_are_taken():
    state = tensors(blobs())
    state |= {"res_conv1_bn_rm": torch.full((8,), 3.0), "res_conv1_bn_riv": torch.full((8,), 4.0)}
    imported = Caffe2Importer().convert(state, {})
    assert imported.model["backbone.stem.conv1.norm.running_mean"].eq(3).all()
    assert imported.model["backbone.stem.conv1.norm.running_var"].eq(4).all()
    assert "backbone.stem.conv1.norm.running_var" not in imported.changes


def test_group_norm_has_no_statistics():
    report = load_weights(network(norm="GN"), tensors(blobs("gn")), strict=True)
    assert report.complete
    assert not report.changed


def test_a_bias_before_a_norm_is_left_out_with_a_reason():
    state = tensors(blobs(bias=True)) | {"conv1_b": torch.ones(8)}
    report = load_weights(network(), state, strict=True)
    assert report.unused["conv1_b"] == report.unused["res2_0_branch2a_b"] == BIAS
    assert len(report.unused) == 3 + 53


BIAS = "bias before a norm, which Detectron2 leaves out too"


def detectron(classes=4, agnostic=False):
    """The first Detectron's Mask R-CNN with a pyramid; rows count up, so that it is seen where they go."""
    names = {}
    for stage, last in ((5, 2), (4, 5), (3, 3), (2, 2)):
        lateral = "" if stage == 5 else "_lateral"
        names |= {f"fpn_inner_res{stage}_{last}_sum{lateral}": 4, f"fpn_res{stage}_{last}_sum": 4}
    names |= {"conv_rpn_fpn2": 4, "rpn_cls_logits_fpn2": 3, "rpn_bbox_pred_fpn2": 12}
    names |= {"fc6": 5, "fc7": 5, "cls_score": classes, "bbox_pred": 4 * (2 if agnostic else classes)}
    names |= {f"_[mask]_fcn{i}": 6 for i in (1, 2, 3, 4)}
    names |= {"conv5_mask": 6, "mask_fcn_logits": 1 if agnostic else classes}
    return {f"{name}_{kind}": torch.arange(rows) for name, rows in names.items() for kind in "wb"}


OURS = {
    **{f"neck.laterals.res{s}": f"fpn_inner_res{s}_" for s in (2, 3, 4, 5)},
    **{f"neck.outputs.res{s}": f"fpn_res{s}_" for s in (2, 3, 4, 5)},
    "proposal_generator.head.convs.0": "conv_rpn",
    "proposal_generator.head.objectness": "rpn_cls",
    "proposal_generator.head.anchor_deltas": "rpn_bbox",
    "roi_heads.box_head.fcs.0": "fc6",
    "roi_heads.box_head.fcs.1": "fc7",
    "roi_heads.box_head.cls_score": "cls_score",
    "roi_heads.box_head.bbox_pred": "bbox_pred",
    **{f"roi_heads.mask_head.convs.{i}": f"_[mask]_fcn{i + 1}" for i in range(4)},
    "roi_heads.mask_head.deconv": "conv5_mask",
    "roi_heads.mask_head.predictor": "mask_fcn_logits",
}


def test_a_whole_model_of_the_first_detectron():
    imported = Caffe2Importer().convert(detectron(), {})
    assert set(imported.model) == {f"{name}.{kind}" for name in OURS for kind in ("weight", "bias")}
    for ours, theirs in imported.origin.items():
        assert theirs.startswith(OURS[ours.rpartition(".")[0]])
        assert theirs.endswith(ours.rpartition(".")[2][0])
    assert not imported.unused
    rows = {name: imported.model[f"roi_heads.{name}.weight"].tolist() for name in HEADS}
    assert rows["box_head.cls_score"] == [1, 2, 3, 0]
    assert rows["box_head.bbox_pred"] == list(range(4, 16))
    assert rows["mask_head.predictor"] == [1, 2, 3]
    assert set(imported.changes) == {f"roi_heads.{name}.{kind}" for name in HEADS for kind in ("weight", "bias")}


HEADS = ("box_head.cls_score", "box_head.bbox_pred", "mask_head.predictor")


def test_one_box_and_one_mask_for_all_classes():
    imported = Caffe2Importer().convert(detectron(agnostic=True), {})
    assert imported.model["roi_heads.box_head.bbox_pred.bias"].tolist() == [4, 5, 6, 7]
    assert imported.model["roi_heads.mask_head.predictor.bias"].tolist() == [0]


def test_c4_shares_res5_and_other_heads_have_convolutions():
    state = {"conv_rpn_w": torch.ones(1), "rpn_cls_logits_b": torch.ones(1), "res5_0_branch2a_w": torch.ones(1)}
    state |= {"head_conv2_w": torch.ones(1), "head_conv2_gn_s": torch.ones(1), "kps_score_w": torch.ones(1)}
    state |= {"conv_fcn8_w": torch.ones(1), "kps_score_lowres_b": torch.ones(1)}
    wanted = {"roi_heads.res5.0.conv1.weight": torch.Size((1,))}
    imported = Caffe2Importer().convert({"res5_0_branch2a_w": torch.ones(1), "pred_w": torch.ones(1)}, wanted)
    assert set(imported.model) == set(wanted)
    imported = Caffe2Importer().convert({**state, "cls_score_w": torch.ones(2)}, {})
    assert imported.model.keys() >= {"roi_heads.res5.0.conv1.weight"}
    imported = Caffe2Importer().convert(state, {})
    assert imported.model.keys() >= {"backbone.res5.0.conv1.weight"}
    assert imported.origin["proposal_generator.head.convs.0.weight"] == "conv_rpn_w"
    assert imported.origin["roi_heads.box_head.convs.1.norm.weight"] == "head_conv2_gn_s"
    assert imported.origin["roi_heads.keypoint_head.convs.7.weight"] == "conv_fcn8_w"
    assert imported.origin["roi_heads.keypoint_head.deconv.bias"] == "kps_score_lowres_b"
    assert imported.unused == {"kps_score_w": "bilinear enlargement, which has no weights here"}
