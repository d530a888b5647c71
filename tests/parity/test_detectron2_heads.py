"""Detectron2's Cascade Mask R-CNN and PointRend on a real image: what they computed, and what their weights do here."""

import dataclasses

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

from detkit.checkpoint import export_state
from detkit.modeling.points import grid_points

BOX = "model.roi_heads.box_head.detection"
CASCADE, POINTREND = "coco/cascade_mask_rcnn_R_50_FPN_1x.yaml", "coco/mask_rcnn_R_50_FPN_1x_pointrend.yaml"
FIXTURES = {
    "d2_cascade_mask_rcnn_R_50_FPN_1x": (CASCADE, f"{BOX}.score_thresh=0.013", f"{BOX}.max_detections=300"),
    "d2_cascade_second": (
        CASCADE,
        f"{BOX}.max_detections=150",
        "model.proposal_generator.selection.post_nms_topk_test=60",
    ),
    "d2_pointrend": (POINTREND, f"{BOX}.score_thresh=0.013"),
}


@pytest.mark.parametrize("name", FIXTURES)
def test_features_detections_masks_losses_and_names(name, shared_data, two_threads, tmp_path):
    reference, (config, *settings) = Fixture(shared_data, name), FIXTURES[name]
    expected, arrays = reference.meta["reference"], reference.arrays
    model = load_detectron2(build(config, (*EVERYTHING, *settings)), reference.state, tmp_path)
    back = export_state(model.state_dict(), "detectron2")
    assert back.keys() == reference.state.keys()
    assert all(torch.equal(tensor, reference.state[theirs]) for theirs, tensor in back.items())

    seen = sample(pixels(shared_data))
    with torch.no_grad():
        for level, value in model.features(model.preprocess([seen])).items():
            assert relative(value[0, :8, ::7, ::7], arrays[f"feature_{level}"]) < 1e-4, level
    found = model([seen])[0].instances
    order = pair(
        (found.boxes.tensor, found.scores, found.classes),
        (arrays["pred_boxes"], arrays["scores"], arrays["pred_classes"]),
    )
    rle = [{"size": list(found.image_size), "counts": c} for c in expected["mask_rle"]]
    assert_masks(found.masks.tensor, torch.from_numpy(pycocotools.mask.decode(rle)).permute(2, 0, 1).bool()[order])

    target = coco_target(shared_data, seen.original_size, annotation_ids=expected["annotation_ids"])
    if config == POINTREND:  # its reference took the points of a grid, and bitmaps
        target = target.with_fields(masks=target.masks.bitmaps())
        model.roi_heads.mask_head.point_sampling = lambda logits: grid_points(len(logits), 14, logits.device)
    losses = model.train()([dataclasses.replace(seen, target=target)]).terms
    assert_losses(losses, expected["losses"])
