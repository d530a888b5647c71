"""The option ``init`` of every head: how far from 0 its last layers begin."""

import math
from functools import partial

import pytest
import torch

from detkit.layers import ShapeSpec
from detkit.modeling.poolers import RoIAlignPooler
from detkit.modeling.proposals import ConvRPNHead, SoftmaxRPNHead
from detkit.modeling.roi_heads import ConvUpsampleMaskHead, FastRCNNConvFCHead, MatterportBoxHead

MAPS = {"p2": ShapeSpec(channels=64, stride=4)}


def rpn_head(cls, **options):
    return cls(64, 30, **options)


def roi_head(cls, **options):
    return cls(MAPS, 80, pooler=partial(RoIAlignPooler, output_size=2), **options)


HEADS = {
    "box": (partial(roi_head, FastRCNNConvFCHead), {"cls_score": 0.01, "bbox_pred": 0.001}),
    "matterport box": (partial(roi_head, MatterportBoxHead), {"cls_score": 0.01, "bbox_pred": 0.001}),
    "mask": (partial(roi_head, ConvUpsampleMaskHead), {"predictor": 0.001}),
    "rpn": (partial(rpn_head, ConvRPNHead), {"convs.0": 0.01, "objectness": 0.01, "anchor_deltas": 0.01}),
    "softmax rpn": (partial(rpn_head, SoftmaxRPNHead), {"convs.0": 0.01, "class_logits": 0.01, "anchor_deltas": 0.01}),
}
OPTIONS = {"convs.0": "convs", "class_logits": "objectness"}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("value", ["default", 0.3, None])
def test_layers_begin_with_the_standard_deviation_that_the_option_gives(head, value):
    torch.manual_seed(0)
    build, layers = HEADS[head]
    init = type(build.args[0].__init__.__kwdefaults__["init"])
    made = build() if value == "default" else build(init=init(**{OPTIONS.get(name, name): value for name in layers}))
    for name, default in layers.items():
        layer = made.get_submodule(name)
        inputs = layer.weight[0].numel()
        expected = default if value == "default" else 1 / math.sqrt(inputs) if value is None else value
        assert float(layer.weight.detach().std() / expected) == pytest.approx(1, abs=0.05), name
        assert not layer.bias.any()
