"""Detectron2's Panoptic FPN: what it computed on one image, with two sets of weights."""

import dataclasses

import numpy as np
import pytest
import torch
from parity_helpers import EVERYTHING, Fixture, assert_losses, build, coco_target, pair, pixels, relative, sample

from detkit.checkpoint import export_state, load_weights
from detkit.modeling.semantic import original_logits

DETECTION, MERGE = "model.roi_heads.box_head.detection", "model.merge"
FIXTURES = {
    "d2_panoptic_fpn_R_50_1x": [f"{DETECTION}.score_thresh=0.013", f"{DETECTION}.max_detections=300"],
    "d2_panoptic_second": [
        f"{DETECTION}.score_thresh=0.05",
        f"{DETECTION}.max_detections=150",
        "model.proposal_generator.selection.post_nms_topk_test=60",
        f"{MERGE}.stuff_area=2000",
        f"{MERGE}.score_thresh=0.15",
    ],
}


@pytest.mark.parametrize("name", FIXTURES)
def test_fixture(name, shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("DETKIT_DATASETS", "datasets")
    fixture = Fixture(shared_data, name)
    reference, arrays = fixture.meta["reference"], fixture.arrays
    model = build("coco/panoptic_fpn_R_50_1x.yaml", [*FIXTURES[name], *EVERYTHING])
    torch.save({"model": fixture.state}, tmp_path / "model_final.pth")
    report = load_weights(model, tmp_path / "model_final.pth")
    assert (report.format, report.complete) == ("Detectron2", True)
    back = export_state(model.state_dict(), "detectron2")
    assert back.keys() == fixture.state.keys()
    assert all(torch.equal(back[key], value) for key, value in fixture.state.items())

    image = pixels(shared_data)
    one = sample(image)
    with torch.no_grad():
        images = model.preprocess([one])
        features = model.features(images)
        (logits,) = original_logits(model.semantic_head.predict(features), images, [one])
        found = model([one])[0]
    for level in reference["features"]:
        assert relative(features[level][0, :8, ::7, ::7], arrays[f"feature_{level}"]) < 1e-4, level
    if "sem_seg_logits_sample" in arrays:
        assert relative(logits[::3, ::23, ::29], arrays["sem_seg_logits_sample"]) < 1e-4
    pair(
        (found.instances.boxes.tensor, found.instances.scores, found.instances.classes),
        (arrays["pred_boxes"], arrays["scores"], arrays["pred_classes"]),
    )
    assert (found.semantic.numpy() != arrays["sem_seg_argmax"]).mean() < 1e-3
    assert (found.panoptic.ids.numpy() != arrays["panoptic_seg"]).mean() < 1e-3
    for ours, theirs in zip(found.panoptic.segments, reference["segments_info"], strict=True):
        assert (ours.id, ours.is_thing, ours.class_index) == (theirs["id"], theirs["isthing"], theirs["category_id"])
        if ours.is_thing:
            assert ours.score == pytest.approx(theirs["score"], abs=1e-5)
            assert ours.instance == theirs["instance_id"]
        else:
            assert int((found.panoptic.ids == ours.id).sum()) == pytest.approx(theirs["area"], rel=1e-3)

    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    labels = ((y // 16 + x // 16) % 54).astype(np.uint8)
    labels[:8] = 255
    target = coco_target(shared_data, image.shape[:2], annotation_ids=reference["annotation_ids"])
    trained = dataclasses.replace(sample(image, target), maps={"semantic": torch.from_numpy(labels)})
    with torch.no_grad():
        assert_losses(model.train()([trained]).terms, reference["losses"])
