"""The small parts, on stored inputs: what Detectron2 and mmdetection computed from them."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from detkit.modeling.suppression import HardNMS, MatrixNMS, SoftNMS


@pytest.fixture(scope="module")
def stored(shared_data):
    folder = shared_data.parent / "reference/parity"
    arrays = np.load(folder / "losses_and_nms.npz")
    tensors = {name: torch.from_numpy(arrays[name]) for name in arrays}
    return tensors | {"facts": json.loads((folder / "losses_and_nms.json").read_text())}


def boxes_of(stored, many=10**6):
    classes = torch.zeros(len(stored["nms_boxes"]), dtype=torch.long)
    return stored["nms_boxes"], stored["nms_scores"], classes, many


def test_hard_nms(stored):
    boxes, scores, classes, many = boxes_of(stored)
    rows, kept = HardNMS()(boxes, scores, classes, 0.5, many)
    assert torch.equal(rows, stored["nms_hard_0.5_keep"])
    assert torch.equal(kept, scores[rows])


@pytest.mark.parametrize("name", ["linear", "linear_0.5", "gaussian", "gaussian_0.25"])
def test_soft_nms(stored, name):
    facts = stored["facts"][f"softnms_{name}"]
    nms = SoftNMS(decay=name.split("_")[0], sigma=facts["sigma"], min_score=facts["min_score"])
    boxes, scores, classes, many = boxes_of(stored)
    rows, decayed = nms(boxes, scores, classes, facts["iou_threshold"], many)
    assert torch.equal(rows, stored[f"softnms_{name}_keep"])
    torch.testing.assert_close(decayed, stored[f"softnms_{name}_scores"], rtol=1e-5, atol=1e-6)
    first, best = nms(boxes, scores, classes, facts["iou_threshold"], 10)
    assert torch.equal(first[:10], rows[:10])
    assert torch.equal(best[:10], decayed[:10])


@pytest.mark.parametrize("name", ["gaussian", "linear", "gaussian_cut", "linear_cut"])
def test_matrix_nms(stored, name):
    facts = stored["facts"][f"matrix_{name}"]
    bits = np.unpackbits(stored["matrix_masks_packed"].numpy())[: 40 * 48 * 48].reshape(40, 48, 48)
    nms = partial(MatrixNMS, decay=facts["kernel"], sigma=facts.get("sigma", 2.0))(
        pre_nms_topk=facts.get("nms_pre", 500), min_score=facts.get("filter_thr", 0.0)
    )
    rows, decayed = nms.of_masks(torch.from_numpy(bits).bool(), stored["matrix_scores"], stored["matrix_labels"])
    most = facts.get("max_num", 40)
    rows, decayed, theirs = rows[:most], decayed[:most], stored[f"matrix_{name}_scores"]
    finite = torch.isfinite(theirs)  # linear: three equal masks are 0 / 0 there
    torch.testing.assert_close(decayed[finite], theirs[finite], rtol=1e-5, atol=1e-6)
    assert torch.isfinite(decayed).all()
    assert torch.equal(rows[finite], stored[f"matrix_{name}_keep"][finite])
    assert torch.equal(stored["matrix_labels"][rows], stored[f"matrix_{name}_labels"])
