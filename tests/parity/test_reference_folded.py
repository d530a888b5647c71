"""The weights of the reference implementation folded into ordinary layers, with the options that are no weights."""

import numpy as np
import pytest
import torch
from parity_helpers import Fixture, build, empty_record, pair, pixels

from detkit.checkpoint import load_weights
from detkit.data import to_sample
from detkit.data.augmentations import ResizeAndPad
from detkit.modeling.interfaces import BOX_HEADS
from detkit.modeling.roi_heads import FastRCNNConvFCHead, MatterportDetections

XYXY = [1, 0, 3, 2]


@BOX_HEADS.register()
class FoldedBoxHead(MatterportDetections, FastRCNNConvFCHead):
    """Ordinary layers with matterport's rules for detections."""


PREDICTION = ("model.roi_heads.box_head.detection.score_thresh=0.015",)

COCO = (
    "model.roi_heads.box_head.name=FoldedBoxHead",
    *PREDICTION,
    "model.preprocess.pixel_mean=[123.7, 116.8, 103.9]",
    "model.preprocess.channel_order=RGB",
    "model.backbone.stem_pool=same",
    "model.proposal_generator.head.conv_dims=[512]",
    "model.proposal_generator.anchor_generator.aspect_ratios=[2.0, 1.0, 0.5]",
    "model.proposal_generator.box_coder={weights: [10, 10, 5, 5], max_log_scale: null}",
    "model.proposal_generator.selection.pre_nms_topk_test=6000",
    "model.proposal_generator.selection.min_size=null",
    "model.proposal_generator.name=MatterportRPN",
    "model.roi_heads.box_head.pooler={name: CropAndResizePooler, output_size: 7}",
    "model.roi_heads.box_head.box_coder={weights: [10, 10, 5, 5], max_log_scale: null}",
    "model.roi_heads.box_head.detection.nms_thresh=0.3",
    "model.roi_heads.mask_head.pooler={name: CropAndResizePooler, output_size: 14}",
    "model.mask_paster={name: ResizeMaskPaster}",
)
"""What makes the ordinary R-101 FPN of COCO predict as the reference: no layer of the reference's own."""

MATTERPORT = (
    "model.proposal_generator.head={name: ConvRPNHead, conv_dims: [512]}",
    "model.roi_heads.box_head={name: FoldedBoxHead, fc_dims: [1024, 1024],"
    " pooler: {name: CropAndResizePooler, output_size: 7}, box_coder: {weights: [10, 10, 5, 5], max_log_scale: null},"
    " detection: {nms_thresh: 0.3}}",
    "model.roi_heads.mask_head.norm=null",
    "model.backbone.conv_bias=false",
    "model.backbone.norm.eps=1.0e-5",
    *PREDICTION,
)
"""The reference implementation's own config with ordinary layers in the place of the reference implementation's."""


@pytest.fixture(scope="module")
def reference(shared_data, two_threads):
    return Fixture(shared_data, "pmr_mask_rcnn_R_101")


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        pytest.param("coco/mask_rcnn_R_101_FPN_3x.yaml", COCO, id="coco"),
        pytest.param("matterport/mask_rcnn_R_101_FPN.yaml", MATTERPORT, id="matterport", marks=pytest.mark.slow),
    ],
)
def test_folded_weights_predict_as_the_reference(reference, shared_data, config, overrides):
    model = build(config, overrides)
    report = load_weights(model, reference.state)
    assert report.exact, report
    folded = {name for name, words in report.changed.items() if "folded" in words}
    assert any(name.startswith("roi_heads.box_head.fcs") for name in folded)
    resize = ResizeAndPad(min_size=448, max_size=640, mode="square")
    batch = [to_sample(resize(empty_record(pixels(shared_data)), np.random.default_rng(0)))]
    with torch.no_grad():
        images = model.preprocess(batch)
        features = model.features(images)
        for name, value in features.items():
            theirs = torch.from_numpy(reference.arrays[f"feature_{name}"])
            assert (value[0, :8, ::7, ::7] - theirs).abs().max() <= 1e-4 * theirs.abs().max(), name
        found = model.roi_heads.predict(features, model.proposal_generator.predict(images, features))[0]
    theirs = reference.arrays["detections_yxyx_class_score"]
    theirs = (theirs[:, XYXY], theirs[:, 5], theirs[:, 4].astype(int))
    partner = pair(theirs, (found.boxes.tensor, found.scores, found.classes + 1), box=1.0, score=1e-4)
    masks = found.mask_probs[partner][::10]
    assert (masks - torch.from_numpy(reference.arrays["mask_probs_of_class_sample"])).abs().max() < 1e-3
