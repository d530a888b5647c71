"""Every detector with every backbone and every neck, by overrides alone on the configs in ``configs/coco``."""

import dataclasses
import itertools
import json

import pytest
import torch
from small import sample

from detkit.config import ConfigError
from detkit.experiment import load_experiment
from detkit.structures import Keypoints

BOX_HEAD = ["model.roi_heads.box_head.fc_dims=[16]"]
MASK_HEAD = ["model.roi_heads.mask_head.num_conv=1", "model.roi_heads.mask_head.conv_dim=16"]
DETECTORS = {
    "mask_rcnn_R_50_FPN_1x": [*BOX_HEAD, *MASK_HEAD],
    "cascade_mask_rcnn_R_50_FPN_1x": [*BOX_HEAD, *MASK_HEAD],
    "keypoint_rcnn_R_50_FPN_1x": [
        *BOX_HEAD,
        "model.roi_heads.keypoint_head.num_conv=1",
        "model.roi_heads.keypoint_head.conv_dim=16",
    ],
    "panoptic_fpn_R_50_1x": [
        *BOX_HEAD,
        *MASK_HEAD,
        "model.semantic_head.conv_dim=16",
        "model.semantic_names=[things, sky, sea]",
    ],
    "retinanet_R_50_FPN_1x": ["model.head.num_conv=1"],
    "fcos_R_50_FPN_1x": ["model.head.num_conv=1"],
}
ONE_STAGE = ("retinanet_R_50_FPN_1x", "fcos_R_50_FPN_1x")
"""Their levels are p3 to p7, the others' p2 to p6."""
BACKBONES = {
    "ResNet": {"depth": 18, "width": 8, "norm": "BN", "freeze_at": 0},
    "ViT": {"embed_dim": 16, "depth": 2, "num_heads": 2, "windows": None, "relative_positions": None},
    "Swin": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
    "TimmBackbone": {"model": "test_convnext"},
}
NECKS = ("FPN", "PAFPN", "BiFPN", "SimpleFeaturePyramid")
ALL = list(itertools.product(DETECTORS, BACKBONES, NECKS))
FAST = {
    ("mask_rcnn_R_50_FPN_1x", "TimmBackbone", "BiFPN"),
    ("mask_rcnn_R_50_FPN_1x", "ResNet", "SimpleFeaturePyramid"),
    ("cascade_mask_rcnn_R_50_FPN_1x", "Swin", "PAFPN"),
    ("keypoint_rcnn_R_50_FPN_1x", "ViT", "SimpleFeaturePyramid"),
    ("panoptic_fpn_R_50_1x", "Swin", "BiFPN"),
    ("retinanet_R_50_FPN_1x", "TimmBackbone", "BiFPN"),
    ("retinanet_R_50_FPN_1x", "ViT", "SimpleFeaturePyramid"),
    ("fcos_R_50_FPN_1x", "Swin", "FPN"),
}
"""Of what is not slow: each detector, backbone and neck."""


def overrides(detector: str, backbone: str, neck: str) -> list[str]:
    """What to say on the command line for the three together."""
    node: dict = {"name": neck, "out_channels": 16}
    one_stage = detector in ONE_STAGE
    if one_stage:
        node["top_block"] = {"name": "LastLevelP6P7", "in_feature": "p5"}
    if neck == "SimpleFeaturePyramid":
        node |= {"in_feature": "res4"} | ({"scales": [2.0, 1.0, 0.5]} if one_stage else {})
    elif one_stage and backbone != "ViT":
        node["in_features"] = ["res3", "res4", "res5"]
    of_backbone = {"name": backbone, **BACKBONES[backbone]}
    if backbone == "ResNet":
        of_backbone["out_features"] = ["res2", "res3", "res4", "res5"]
    return [f"model.backbone={json.dumps(of_backbone)}", f"model.neck={json.dumps(node)}", *DETECTORS[detector]]


def batch():
    """Two images of different sizes whose objects have all that any of the detectors learns from."""
    made = []
    for one in (sample(64, 96, seed=1), sample(80, 64, num=2, seed=2)):
        centres = one.target.boxes.tensor.view(-1, 2, 2).mean(1)
        rows = torch.cat([centres, torch.full((len(centres), 1), 2.0)], 1)[:, None].repeat(1, 17, 1)
        ground = {"semantic": torch.ones(one.image.shape[1:], dtype=torch.uint8)}
        made.append(dataclasses.replace(one, target=one.target.with_fields(keypoints=Keypoints(rows)), maps=ground))
    return made


def check(detector: str, backbone: str, neck: str) -> None:
    chosen = overrides(detector, backbone, neck)
    if backbone == "ViT" and neck != "SimpleFeaturePyramid":
        with pytest.raises(ConfigError, match=rf"model\.neck.*{neck} joins .* res4 of stride 16; SimpleFeaturePyramid"):
            load_experiment(f"coco/{detector}", chosen)
        return
    model = load_experiment(f"coco/{detector}", chosen).build_model(3).train()
    loss = model(batch()).total()
    loss.backward()
    assert loss.isfinite()
    for part in ("backbone", "neck"):
        learning = [
            p.grad is not None and bool(p.grad.any()) for n, p in model.named_parameters() if n.startswith(part)
        ]
        assert sum(learning) > 0.3 * len(learning), (
            f"the {part} does not learn; what lies behind the neck's map may not"
        )
    torch.optim.SGD(model.parameters(), lr=1e-4).step()
    with torch.no_grad():
        predictions = model.eval()(batch())
    assert [p.instances.image_size for p in predictions] == [(64, 96), (80, 64)]


@pytest.mark.parametrize(("detector", "backbone", "neck"), [one for one in ALL if one in FAST])
def test_a_combination_learns(detector, backbone, neck):
    check(detector, backbone, neck)


@pytest.mark.slow
@pytest.mark.parametrize(("detector", "backbone", "neck"), [one for one in ALL if one not in FAST])
def test_every_combination_learns_or_says_why_not(detector, backbone, neck):
    check(detector, backbone, neck)


@pytest.mark.parametrize("neck", NECKS[:3])
def test_a_neck_for_several_maps_says_before_building_that_a_plain_vit_has_one(neck):
    check("mask_rcnn_R_50_FPN_1x", "ViT", neck)
