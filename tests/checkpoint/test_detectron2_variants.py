"""Detectron2's other configs, said by overrides: each state dict fills the model, and is written back as it was."""

import json
from pathlib import Path

import pytest
import torch
from detectron2_names import BLOCKS, cascade_model, fpn_model, layer, masks, meta, normed, pointrend_model, predictor

from detkit.checkpoint.formats import import_foreign
from detkit.checkpoint.formats.exporting import export_state
from detkit.experiment import load_experiment

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BLOCKS[152] = (3, 8, 36, 3)
DEFORM = "deform: {stages: [res3, res4, res5]}"


def cascade_heads(norm, num_conv):
    """RoI heads in a row, whose box heads have four convolutions and one fully connected layer."""
    box = {"name": "FastRCNNConvFCHead", "pooler": {"name": "RoIAlignPooler", "output_size": 7}, "norm": norm}
    mask = {"name": "ConvUpsampleMaskHead", "pooler": {"name": "RoIAlignPooler", "output_size": 14}, "norm": norm}
    heads = {
        "name": "CascadeRoIHeads",
        "in_features": ["p2", "p3", "p4", "p5"],
        "box_head": {**box, "conv_dims": [256] * 4, "fc_dims": [1024], "class_agnostic": True},
        "mask_head": {**mask, "num_conv": num_conv},
    }
    return f"model.roi_heads={json.dumps(heads)}"


def in_a_row(names):
    """Names of a model with one box head as those of a cascade's, class-agnostic."""
    out = {}
    for name, shape in names.items():
        head, _, rest = name.removeprefix("roi_heads.").partition(".")
        numbered = name.startswith("roi_heads.box") and [f"roi_heads.{head}.{i}.{rest}" for i in range(3)]
        out |= dict.fromkeys(numbered or [name], (4, *shape[1:]) if "bbox_pred" in name else shape)
    return out


def with_gn_heads(depth, **network):
    """A cascade with group norms in its heads alone, and eight convolutions for masks."""
    names = {}
    for name, shape in fpn_model(depth, head_norm="GN", **network).items():
        if "fpn_" not in name:
            names[name] = shape
        elif name.endswith(".weight") and ".norm." not in name:
            names |= {name: shape, f"{name.removesuffix('weight')}bias": shape[:1]}
    rest = {name: shape for name, shape in names.items() if not name.startswith("roi_heads.mask_head")}
    return in_a_row(rest | masks(256, 8, norm="GN"))


def semantic_head():
    names = {}
    for level, num_conv in ((2, 1), (3, 1), (4, 2), (5, 3)):
        for i in range(num_conv):
            names |= normed(f"sem_seg_head.p{level}.{2 * i}", 128, 128 if i else 256, 3, 3, norm="GN")
    return names | layer("sem_seg_head.predictor", 54, 128, 1, 1)


def vitdet_cascade(dim, depth, num_heads):
    """ViTDet with a cascade: layer norms in the pyramid and in the heads."""
    names = {"backbone.net.pos_embed": (1, 197, dim), **layer("backbone.net.patch_embed.proj", dim, 3, 16, 16)}
    for i in range(depth):
        block, side = f"backbone.net.blocks.{i}", 64 if i % (depth // 4) == depth // 4 - 1 else 14
        names |= layer(f"{block}.norm1", dim) | layer(f"{block}.norm2", dim) | layer(f"{block}.attn.qkv", 3 * dim, dim)
        names |= layer(f"{block}.attn.proj", dim, dim) | layer(f"{block}.mlp.fc1", 4 * dim, dim)
        names |= layer(f"{block}.mlp.fc2", dim, 4 * dim)
        names |= {f"{block}.attn.rel_pos_{axis}": (2 * side - 1, dim // num_heads) for axis in "hw"}
    for name, inputs in (("2.0", dim), ("2.3", dim // 2), ("3.0", dim)):
        names |= {f"backbone.simfp_{name}.weight": (inputs, inputs // 2, 2, 2)}
        names |= {f"backbone.simfp_{name}.bias": (inputs // 2,)}
    names |= layer("backbone.simfp_2.1", dim // 2)
    for name, inputs, size in (("2.4", dim // 4, 1), ("3.1", dim // 2, 1), ("4.0", dim, 1), ("5.1", dim, 1)):
        level, first = name.split(".")
        names |= layer_norm(f"backbone.simfp_{name}", 256, inputs, size)
        names |= layer_norm(f"backbone.simfp_{level}.{int(first) + 1}", 256, 256, 3)
    rpn = "proposal_generator.rpn_head"
    names |= layer(f"{rpn}.conv.conv0", 256, 256, 3, 3) | layer(f"{rpn}.conv.conv1", 256, 256, 3, 3)
    names |= layer(f"{rpn}.objectness_logits", 3, 256, 1, 1) | layer(f"{rpn}.anchor_deltas", 12, 256, 1, 1)
    box = layer("roi_heads.box_head.fc1", 1024, 256 * 49) | predictor(1024)
    for i in range(4):
        box |= layer_norm(f"roi_heads.box_head.conv{i + 1}", 256, 256, 3)
        names |= layer_norm(f"roi_heads.mask_head.mask_fcn{i + 1}", 256, 256, 3)
    last = {name: shape for name, shape in masks(256).items() if "mask_fcn" not in name}
    return names | in_a_row(box) | last


def layer_norm(name, out, inputs, size):
    """A convolution without a bias, and its layer norm."""
    return layer(name, out, inputs, size, size, bias=False) | layer(f"{name}.norm", out)


def agnostic():
    names = fpn_model()
    rows = {"roi_heads.box_predictor.bbox_pred": 4, "roi_heads.mask_head.predictor": 1}
    return {name: (rows.get(name.rpartition(".")[0], shape[0]), *shape[1:]) for name, shape in names.items()}


def point_head_of_its_own():
    """PointRend that decides points for all classes at once, and whose first layer alone sees the coarse masks."""
    names, head = pointrend_model(), "roi_heads.mask_head.point_head"
    for name, inputs in (("fc2", 256), ("fc3", 256)):
        names |= layer(f"{head}.{name}", 256, inputs, 1)
    return names | layer(f"{head}.predictor", 1, 256, 1)


def with_residual_blocks(names, dim, blocks):
    """A ViT's names with a convolutional block behind some of its blocks."""
    for i in blocks:
        for number, (out, inputs, size) in enumerate(
            ((dim // 2, dim, 1), (dim // 2, dim // 2, 3), (dim, dim // 2, 1)), 1
        ):
            prefix = f"backbone.net.blocks.{i}.residual"
            names |= layer(f"{prefix}.conv{number}", out, inputs, size, size, bias=False)
            names |= layer(f"{prefix}.norm{number}", out)
    return names


X_152 = f"model.backbone={{name: ResNeXt, depth: 152, num_groups: 32, width_per_group: 8, {DEFORM}}}"
VIT_L = "model.backbone={embed_dim: 1024, depth: 24, num_heads: 16, windows: {global_blocks: [5, 11, 17, 23]}}"
VARIANTS = {
    "cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv": (
        "coco/cascade_mask_rcnn_R_50_FPN_3x",
        [X_152, cascade_heads("GN", 8)],
        with_gn_heads(152, groups=32, width=8, deform=2),
    ),
    "panoptic_fpn_R_101_dconv_cascade_gn_3x": (
        "coco/panoptic_fpn_R_101_3x",
        [f"model.backbone={{{DEFORM}}}", cascade_heads("GN", 8)],
        with_gn_heads(101, deform=2) | semantic_head(),
    ),
    "mask_rcnn_R_50_FPN_1x_cls_agnostic": (
        "coco/mask_rcnn_R_50_FPN_1x",
        ["model.roi_heads.box_head.class_agnostic=true", "model.roi_heads.mask_head.class_agnostic=true"],
        agnostic(),
    ),
    "cascade_mask_rcnn_vitdet_l_100ep": (
        "coco/mask_rcnn_vitdet_b_100ep",
        [VIT_L, cascade_heads("LN", 4)],
        vitdet_cascade(1024, 24, 16),
    ),
    "cascade_mask_rcnn_vitdet_l with convolutional blocks": (
        "coco/mask_rcnn_vitdet_b_100ep",
        [VIT_L, cascade_heads("LN", 4), "model.backbone.residual_blocks=[5, 23]"],
        with_residual_blocks(vitdet_cascade(1024, 24, 16), 1024, (5, 23)),
    ),
    "pointrend_rcnn_R_50_FPN_1x_coco with a point head of its own": (
        "coco/mask_rcnn_R_50_FPN_1x_pointrend",
        ["model.roi_heads.mask_head.point_head={class_agnostic: true, coarse_each_layer: false}"],
        point_head_of_its_own(),
    ),
    "cascade_mask_rcnn_R_50_FPN_1x": ("coco/cascade_mask_rcnn_R_50_FPN_1x", [], cascade_model()),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_fill_the_model_and_go_back(name, monkeypatch):
    monkeypatch.setenv("DETKIT_DATASETS", "datasets")
    config, overrides, names = VARIANTS[name]
    with torch.device("meta"):
        state = load_experiment(CONFIGS / f"{config}.yaml", overrides).build_model(80).state_dict()
    imported = import_foreign(meta(names), {name: tensor.shape for name, tensor in state.items()})
    assert {name: t.shape for name, t in imported.model.items()} == {name: t.shape for name, t in state.items()}
    assert not imported.unused
    assert {name: tuple(t.shape) for name, t in export_state(state, "detectron2").items()} == names
