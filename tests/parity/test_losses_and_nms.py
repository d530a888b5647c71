"""The small parts, on stored inputs: what Detectron2 and mmdetection computed from them."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from detkit.layers import deformable_attention
from detkit.modeling import suppression
from detkit.modeling.box_losses import CIoUBoxLoss, DIoUBoxLoss, GIoUBoxLoss
from detkit.modeling.class_losses import FederatedClassLoss, SeesawClassLoss, SigmoidClassLoss
from detkit.modeling.points import PointSampling, sample_maps, uncertain_cells
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
def test_matrix_nms(stored, name, monkeypatch):
    """The reference goes by the IoU of masks: they stand here for the boxes of their numbers."""
    facts = stored["facts"][f"matrix_{name}"]
    bits = np.unpackbits(stored["matrix_masks_packed"].numpy())[: 40 * 48 * 48].reshape(40, 48 * 48)
    flat = torch.from_numpy(bits).float()
    inter, areas = flat @ flat.t(), flat.sum(dim=1)
    iou = inter / (areas[:, None] + areas - inter)
    numbers = torch.arange(40)[:, None].expand(-1, 4)
    monkeypatch.setattr(suppression, "pairwise_iou", lambda a, b: iou[a[:, 0].long()][:, b[:, 0].long()])
    nms = partial(MatrixNMS, decay=facts["kernel"], sigma=facts.get("sigma", 2.0))(
        pre_nms_topk=facts.get("nms_pre", 500), min_score=facts.get("filter_thr", 0.0)
    )
    most = facts.get("max_num", 40)
    rows, decayed = nms(numbers, stored["matrix_scores"], stored["matrix_labels"], 0.5, most)
    rows, decayed, theirs = rows[:most], decayed[:most], stored[f"matrix_{name}_scores"]
    finite = torch.isfinite(theirs)  # linear: three equal masks are 0 / 0 there
    torch.testing.assert_close(decayed[finite], theirs[finite], rtol=1e-5, atol=1e-6)
    assert torch.isfinite(decayed).all()
    assert torch.equal(rows[finite], stored[f"matrix_{name}_keep"][finite])
    assert torch.equal(stored["matrix_labels"][rows], stored[f"matrix_{name}_labels"])


@pytest.mark.parametrize("places", [8, 26])
def test_federated_loss(stored, places, monkeypatch):
    loss = FederatedClassLoss(30, num_places=places)
    loss.set_image_counts(stored["fed_image_counts"])
    labels, kept = stored["fed_labels"], stored[f"fed_classes_{places}"]
    chosen = loss.chosen(labels)
    assert chosen[labels].all(), "the classes of the batch, and the background"
    assert chosen.sum() == max(places, len(labels.unique())) == len(kept)
    monkeypatch.setattr(loss, "chosen", lambda classes: torch.zeros(31, dtype=torch.bool).index_fill(0, kept, True))
    logits = stored["fed_logits"].clone().requires_grad_()
    mean = loss(logits, labels)[""] / len(labels)
    mean.backward()
    torch.testing.assert_close(mean.detach(), stored[f"fed_loss_{places}"])
    torch.testing.assert_close(logits.grad, stored[f"fed_grad_{places}"])


def test_sigmoid_loss(stored):
    loss = SigmoidClassLoss(30)(stored["fed_logits"], stored["fed_labels"])[""] / len(stored["fed_labels"])
    torch.testing.assert_close(loss, stored["sigmoid_ce_loss"])


def test_seesaw_loss(stored):
    loss = SeesawClassLoss(12)
    loss.class_counts.copy_(stored["seesaw_cum_before"])

    def means(module, step):
        logits, labels = stored[f"seesaw_logits_{step}"].clone().requires_grad_(), stored[f"seesaw_labels_{step}"]
        sums, foreground, every = module(logits, labels), (labels < 12).sum(), torch.tensor(len(labels))
        return logits, {name: value / module.normaliser(name, foreground, every) for name, value in sums.items()}

    for step in (1, 2):
        logits, parts = means(loss, step)
        sum(parts.values()).backward()
        for name, value in parts.items():
            torch.testing.assert_close(value.detach(), stored[f"seesaw_loss_cls{name}_{step}"])
        torch.testing.assert_close(logits.grad, stored[f"seesaw_grad_{step}"])
        assert torch.equal(loss.class_counts, stored[f"seesaw_cum_after_{step}"])
    for name, value in means(SeesawClassLoss(12), 1)[1].items():
        torch.testing.assert_close(value.detach(), stored[f"seesaw_fresh_loss_cls{name}"])
    torch.testing.assert_close(loss.scores(stored["seesaw_logits_1"]), stored["seesaw_activation_1"])


@pytest.mark.parametrize(("name", "cls"), [("giou", GIoUBoxLoss), ("diou", DIoUBoxLoss), ("ciou", CIoUBoxLoss)])
def test_box_losses(stored, name, cls):
    boxes = stored["boxes_pred"].clone().requires_grad_()
    rows = cls().of_boxes(boxes, stored["boxes_target"])
    rows.sum().backward()
    theirs, gradient = stored[f"{name}_loss"], stored[f"{name}_grad"]
    finite = torch.isfinite(theirs)  # CIoU of an empty box is not, there
    assert finite.sum() >= len(theirs) - 1
    torch.testing.assert_close(rows.detach()[finite], theirs[finite])
    torch.testing.assert_close(boxes.grad[finite], gradient[finite], rtol=1e-4, atol=1e-6)
    assert torch.isfinite(rows).all()
    assert torch.isfinite(boxes.grad).all()


def test_choice_of_points(stored, monkeypatch):
    logits, draws = stored["points_logits"][:, 0], [stored[f"points_{name}_draw"] for name in ("first", "second")]
    monkeypatch.setattr(torch, "rand", lambda *_, **__: draws.pop(0))
    points = PointSampling(num_points=40, oversampling=3.0, uncertain=0.75)(logits)
    assert torch.equal(points, stored["points_chosen"])
    torch.testing.assert_close(sample_maps(logits[:, None], points), stored["points_sampled"])
    cells, places = uncertain_cells(logits, 20)
    assert torch.equal(cells, stored["points_grid_index"])
    torch.testing.assert_close(places, stored["points_grid"])


def test_deformable_attention(stored):
    value, sizes, locations, weights, theirs = (
        stored[f"msda_{name}"] for name in ("value", "shapes", "locations", "weights", "out")
    )
    torch.testing.assert_close(deformable_attention(value, sizes.tolist(), locations, weights), theirs)
