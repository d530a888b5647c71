"""Detectron2's test-time augmentation: every view, what they are merged to, and the model without it."""

import numpy as np
import pycocotools.mask
import pytest
import torch
from parity_helpers import Fixture, assert_masks, build, load_detectron2, pair, pixels, sample

from detkit.views import Views, ViewsModel

SETTINGS = (
    "model.roi_heads.box_head.detection.max_detections=150",
    "model.proposal_generator.selection.post_nms_topk_test=60",
)


@pytest.fixture(scope="module")
def reference(shared_data):
    return Fixture(shared_data, "d2_tta")


@pytest.fixture(scope="module")
def seen(reference, shared_data, two_threads, tmp_path_factory):
    """Views with what was found on each, and the predictions with and without them."""
    model = build("coco/mask_rcnn_R_50_FPN_1x.yaml", SETTINGS)
    load_detectron2(model, reference.state, tmp_path_factory.mktemp("tta"))
    one, views, detections, described = sample(pixels(shared_data)), [], model.detections, []
    single = model.prediction(detections([one])[0], one.original_size).instances

    def kept(samples):
        found = detections(samples)
        views.extend(zip(samples, found))
        return found

    model.detections, described_before = kept, model.described
    model.described = lambda *batch: described.extend(described_before(*batch)) or described[-len(batch[0]) :]
    merged = ViewsModel(model, Views(short_edge=(320, 400), max_size=640))([one])[0].instances
    return views, described, merged, single


def as_rows(found):
    return found.boxes.tensor, found.scores, found.classes


def of(reference, prefix, scores="scores", boxes="boxes", classes="classes"):
    return [reference.arrays[prefix + name] for name in (boxes, scores, classes)]


def test_every_view(reference, seen):
    assert len(seen[0]) == 4
    for number, (view, found) in enumerate(seen[0]):
        bgr = view.image.numpy()[::-1]
        assert np.array_equal(bgr[:, ::37, ::41], reference.arrays[f"aug{number}_image_sample"])
        assert len(found)
        pair(as_rows(found), of(reference, f"aug{number}_"), score=1e-4, limit=150)


def test_the_merged_prediction_and_the_single_one(reference, seen):
    _, described, merged, single = seen
    pair(as_rows(single), of(reference, "single_"), score=1e-4, limit=150)
    arrays = reference.arrays
    theirs = (arrays["pred_boxes"], arrays["scores"], arrays["pred_classes"])
    order = pair(as_rows(merged), theirs, score=1e-4, limit=150)
    rle = [{"size": list(merged.image_size), "counts": c} for c in reference.meta["reference"]["mask_rle"]]
    masks = torch.from_numpy(pycocotools.mask.decode(rle)).permute(2, 0, 1).bool()
    rows = ((order >= 0) & (order < len(masks))).nonzero()[:, 0]
    assert len(rows) >= len(masks) - 1
    assert_masks(merged.masks[rows].bitmaps(), masks[order[rows]])
    mean = torch.stack([d.mask_probs.flip(-1) if n % 2 else d.mask_probs for n, d in enumerate(described)]).mean(0)
    column = {int(theirs): row for row, theirs in enumerate(order.tolist())}
    sampled = [(n, column[4 * n]) for n in range(len(arrays["mean_mask_probs_sample"])) if 4 * n in column]
    expected = torch.from_numpy(arrays["mean_mask_probs_sample"])[[n for n, _ in sampled]]
    torch.testing.assert_close(mean[[row for _, row in sampled]], expected, rtol=0, atol=1e-3)
