"""Detectron2's Mask R-CNN on a real image: what it computed, and what detkit computes from its weights."""

import dataclasses
import pickle

import pycocotools.mask
import pytest
import torch
from parity_helpers import (
    EVERYTHING,
    Fixture,
    assert_losses,
    assert_masks,
    build,
    coco_target,
    load_detectron2,
    pair,
    pixels,
    relative,
    sample,
)

from detkit.checkpoint import load_weights

SETTINGS = (
    "model.roi_heads.box_head.detection.score_thresh=0.013",
    "model.roi_heads.box_head.detection.max_detections=300",
    *EVERYTHING,
)


@pytest.fixture(scope="module")
def reference(shared_data, two_threads):
    return Fixture(shared_data, "d2_mask_rcnn_R_50_FPN_1x")


@pytest.fixture(scope="module")
def model(reference, tmp_path_factory):
    return load_detectron2(
        build("coco/mask_rcnn_R_50_FPN_1x.yaml", SETTINGS), reference.state, tmp_path_factory.mktemp("detectron2")
    )


@pytest.fixture(scope="module")
def computed(model, shared_data):
    """Features, proposals and detections of the image."""
    batch = [sample(pixels(shared_data))]
    with torch.no_grad():
        images = model.preprocess(batch)
        features = model.features(images)
        return features, model.proposal_generator.predict(images, features)[0], model(batch)[0].instances


def test_features(reference, computed):
    features, expected = computed[0], reference.meta["reference"]["features"]
    assert set(features) == set(expected)
    for name, value in features.items():
        assert list(value.shape) == expected[name]["shape"]
        assert relative(value[0, :8, ::7, ::7], reference.arrays[f"feature_{name}"]) < 1e-4, name
        assert value.mean().item() == pytest.approx(expected[name]["mean"], abs=1e-4 * expected[name]["std"])
        assert value.std().item() == pytest.approx(expected[name]["std"], rel=1e-4)


def test_proposals(reference, computed):
    proposals, arrays = computed[1], reference.arrays
    theirs = (arrays["proposal_boxes"], arrays["objectness_logits"])
    assert len(theirs[0]) == 1000
    pair((proposals.boxes.tensor, proposals.objectness), theirs, score=1e-4 * abs(theirs[1]).max())


def test_detections(reference, computed):
    found, arrays = computed[2], reference.arrays
    assert len(found) == 300
    pair(
        (found.boxes.tensor, found.scores, found.classes),
        (arrays["pred_boxes"], arrays["scores"], arrays["pred_classes"]),
    )
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)


def test_masks(reference, computed):
    found, arrays = computed[2], reference.arrays
    order = pair(
        (found.boxes.tensor, found.scores, found.classes),
        (arrays["pred_boxes"], arrays["scores"], arrays["pred_classes"]),
    )
    rle = [{"size": list(found.image_size), "counts": c} for c in reference.meta["reference"]["mask_rle"]]
    theirs = torch.from_numpy(pycocotools.mask.decode(rle)).permute(2, 0, 1).bool()
    assert_masks(found.masks.tensor, theirs[order])
    assert found.masks.tensor.sum().item() == pytest.approx(int(arrays["mask_areas"].sum()), rel=1e-3)


def test_losses(reference, model, shared_data):
    expected = reference.meta["reference"]
    seen = sample(pixels(shared_data))
    target = coco_target(shared_data, seen.original_size, annotation_ids=expected["annotation_ids"])
    model.train()
    try:
        losses = model([dataclasses.replace(seen, target=target)]).terms
    finally:
        model.eval()
    assert len(expected["losses"]) == 5
    assert_losses(losses, expected["losses"])


def test_the_numpy_pickle_gives_the_same_weights(reference, model, tmp_path):
    path = tmp_path / "model_final_a1b2c3.pkl"
    arrays = {name: tensor.numpy() for name, tensor in reference.state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2"}))
    other = build("coco/mask_rcnn_R_50_FPN_1x.yaml", SETTINGS)
    assert not load_weights(other, path).missing
    ours = model.state_dict()
    for name, value in other.state_dict().items():
        assert torch.equal(value, ours[name]), name
