"""Detectron2's Keypoint R-CNN on a real image: what it computed, and what detkit computes from its weights."""

import dataclasses

import pytest
import torch
from parity_helpers import (
    EVERYTHING,
    Fixture,
    assert_losses,
    build,
    coco_target,
    load_detectron2,
    pair,
    pixels,
    relative,
    sample,
)

from detkit.checkpoint import export_state
from detkit.structures import Keypoints

CONFIG = "coco/keypoint_rcnn_R_50_FPN_1x.yaml"
SETTINGS = (
    "model.roi_heads.box_head.detection.score_thresh=0.013",
    "model.roi_heads.box_head.detection.max_detections=300",
    *EVERYTHING,
)


@pytest.fixture(scope="module")
def reference(shared_data, two_threads):
    return Fixture(shared_data, "d2_keypoint_rcnn_R_50_FPN_1x")


@pytest.fixture(scope="module")
def model(reference, tmp_path_factory):
    return load_detectron2(
        build(CONFIG, SETTINGS, num_classes=1), reference.state, tmp_path_factory.mktemp("detectron2")
    )


def test_detections_and_keypoints(reference, model, shared_data):
    batch, arrays = [sample(pixels(shared_data))], reference.arrays
    with torch.no_grad():
        features = model.features(model.preprocess(batch))
        found = model(batch)[0].instances
    for name, value in features.items():
        assert relative(value[0, :8, ::7, ::7], arrays[f"feature_{name}"]) < 1e-4, name
    assert len(found) == 300
    order = pair(
        (found.boxes.tensor, found.scores, found.classes),
        (arrays["pred_boxes"], arrays["scores"], arrays["pred_classes"]),
    )
    theirs = torch.from_numpy(arrays["pred_keypoints"])[order]
    far = (found.keypoints.tensor - theirs).abs()
    assert (far[..., :2].amax(-1) <= 0.01).float().mean() > 0.999, "all but ties of two pixels"
    assert far[..., 2].max() < 1e-5
    assert found.keypoints.flip_pairs[0] == (1, 2)


def test_losses(reference, model, shared_data):
    expected = reference.meta["reference"]
    seen = sample(pixels(shared_data))
    target = coco_target(shared_data, seen.original_size, annotation_ids=expected["annotation_ids"]).without("masks")
    target = target.with_fields(
        classes=torch.zeros_like(target.classes), keypoints=Keypoints(torch.tensor(expected["gt_keypoints"]))
    )
    model.train()
    try:
        losses = model([dataclasses.replace(seen, target=target)]).terms
    finally:
        model.eval()
    assert len(expected["losses"]) == 5
    assert_losses(losses, expected["losses"])


def test_the_way_back_gives_the_same_tensors(reference, model):
    again = export_state(model.state_dict(), "detectron2")
    assert again.keys() == reference.state.keys()
    assert all(torch.equal(again[name], value) for name, value in reference.state.items())
