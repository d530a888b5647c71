"""torchvision's Keypoint R-CNN and detkit's config for it: the same weights, outputs and losses, both ways."""

import dataclasses

import pytest
import torch
import torchvision
from parity_helpers import assert_losses, build, pair, pixels, sample
from test_torchvision_detectors import LIMIT, LOSSES, PORTRAIT, SCORE_THRESH, Settings, enliven, train

from detkit.checkpoint import export_state, load_weights
from detkit.structures import Boxes, Instances, Keypoints

NAME = "keypointrcnn_resnet50_fpn"
SETTINGS = Settings(160, 320, few=True)
BOXES = [[[50.0, 30, 300, 320], [10, 10, 200, 150]], [[20.0, 40, 220, 330], [5, 5, 100, 60], [100, 200, 350, 400]]]


def theirs_empty():
    """torchvision's model, whose sampling takes everything."""
    return getattr(torchvision.models.detection, NAME)(
        weights=None,
        weights_backbone=None,
        box_score_thresh=SCORE_THRESH,
        rpn_batch_size_per_image=1_000_000,
        box_batch_size_per_image=100_000,
        box_positive_fraction=0.5,
        **SETTINGS.theirs(NAME),
    ).eval()


@pytest.fixture(scope="module")
def images(shared_data):
    return [pixels(shared_data), pixels(shared_data, PORTRAIT)]


@pytest.fixture(scope="module")
def theirs(images):
    torch.manual_seed(0)
    model = enliven(theirs_empty(), images)
    with torch.no_grad():  # heat maps with one peak each, or rounding decides which of many is the highest
        model.roi_heads.keypoint_predictor.kps_score_lowres.weight.mul_(30)
    return model


@pytest.fixture(scope="module")
def ours(theirs):
    everything = (
        f"model.roi_heads.box_head.detection.score_thresh={SCORE_THRESH}",
        "model.proposal_generator.sampling.batch_size_per_image=1000000",
        "model.roi_heads.sampling.batch_size_per_image=100000",
        "model.roi_heads.sampling.positive_fraction=0.5",
    )
    config = "torchvision/keypoint_rcnn_R_50_FPN.yaml"
    model = build(config, [*everything, *SETTINGS.ours(NAME)], num_classes=1)
    report = load_weights(model, theirs.state_dict())
    assert report.exact, report
    return model


def test_outputs(ours, theirs, images):
    with torch.no_grad():
        expected = theirs([sample(i).image / 255 for i in images])
        found = [prediction.instances for prediction in ours([sample(i) for i in images])]
    for one, other in zip(found, expected, strict=True):
        assert len(one) > 3, "nothing is compared"
        mine = (one.boxes.tensor, one.scores, one.classes)
        order = pair(mine, (other["boxes"], other["scores"], other["labels"] - 1), limit=LIMIT)
        rows = order >= 0
        points = torch.cat([other["keypoints"][..., :2], other["keypoints_scores"][..., None]], -1)[order[rows]]
        far = (one.keypoints.tensor[rows] - points).abs()
        assert (far[..., :2].amax(-1) <= 0.01).float().mean() > 0.995, "all but ties of two pixels"
        assert (far[..., 2] <= 1e-4 * points[..., 2].abs().max()).all()


def test_losses(ours, theirs, images):
    generator, samples, targets = torch.Generator().manual_seed(1), [], []
    for image, boxes in zip(images, BOXES):
        seen, corners = sample(image), torch.tensor(boxes)
        share = torch.rand(len(corners), 17, 2, generator=generator) * 1.2 - 0.1  # some lie outside of their box
        xy = corners[:, None, :2] + share * (corners[:, 2:] - corners[:, :2])[:, None]
        visibility = torch.randint(0, 3, (len(corners), 17, 1), generator=generator)
        visibility[0] = 0  # an object of which nothing is labelled
        keypoints, classes = torch.cat([xy, visibility], -1), torch.zeros(len(corners), dtype=torch.long)
        target = Instances(
            seen.original_size, boxes=Boxes(corners), classes=classes, keypoints=Keypoints(keypoints.clone())
        )
        samples.append(dataclasses.replace(seen, target=target))
        targets.append({"boxes": corners, "labels": classes + 1, "keypoints": keypoints})
    train(ours, theirs, NAME)
    try:
        with torch.no_grad():
            expected = theirs([s.image / 255 for s in samples], targets)
            computed = ours(samples).terms
    finally:
        ours.eval()
        theirs.eval()
    names = {**LOSSES, "loss_keypoint": "loss_keypoint"}
    assert_losses(computed, {names[name]: value for name, value in expected.items()})


def test_the_way_back_gives_the_same_tensors(ours, theirs):
    again, state = export_state(ours.state_dict(), "torchvision"), theirs.state_dict()
    theirs_empty().load_state_dict(again, strict=True)
    unread = {f"roi_heads.box_predictor.bbox_pred.{kind}" for kind in ("weight", "bias")}  # rows of the background
    assert all(torch.equal(again[name], value) for name, value in state.items() if name in again and name not in unread)
