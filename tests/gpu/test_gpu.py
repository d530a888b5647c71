"""What a GPU computes is what the CPU does: layers, structures, models."""

import copy

import pytest
import torch
from small import sample, small_model

from benchmarks.agreement import agreement
from detkit.engine.step import autocast
from detkit.inference import optimized
from detkit.layers import crop_and_resize, roi_align
from detkit.modeling.suppression import HardNMS, MatrixNMS, SoftNMS
from detkit.structures import Boxes, CroppedMasks, Flip, Resize


def boxes(count=40, seed=0):
    corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 60
    return torch.cat([corner, corner + 2 + corner.flip(0) / 2], dim=1)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_forward_and_backward(device, layout, sampling_ratio):
    values = torch.randn(2, 5, 24, 24)
    rois = torch.cat([torch.arange(40.0)[:, None] // 20, boxes()], dim=1)
    found = []
    for where in ("cpu", device):
        features = values.detach().to(where).contiguous(memory_format=layout).requires_grad_()
        pooled = roi_align(features, rois.to(where), 7, 0.25, sampling_ratio)
        pooled.square().sum().backward()
        found.append((pooled.detach().cpu(), features.grad.cpu()))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_crop_and_resize(device):
    features, corners, index = torch.randn(2, 3, 20, 30), boxes() / 100, torch.arange(40) % 2
    wanted = crop_and_resize(features, corners, index, 7)
    found = crop_and_resize(features.to(device), corners.to(device), index.to(device), 7)
    torch.testing.assert_close(found.cpu(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("suppression", [HardNMS(), SoftNMS(), MatrixNMS()], ids=lambda s: type(s).__name__)
def test_suppression(device, suppression):
    scores, classes = torch.rand(40), torch.arange(40) % 3
    results = [suppression(boxes().to(d), scores.to(d), classes.to(d), 0.5, 20) for d in ("cpu", device)]
    for a, b in zip(*results):
        torch.testing.assert_close(b.cpu().float(), a.float(), atol=1e-5, rtol=1e-5)


def test_structures_move_there_and_back(device):
    target = sample(seed=3).target
    moved = target.to(device)
    assert moved.boxes.tensor.device.type == moved.masks.tensor.device.type == device.type
    for step in (Flip((64, 96)), Resize((64, 96), (32, 48))):
        there, here = moved.transform(step).to("cpu"), target.transform(step)
        torch.testing.assert_close(there.boxes.tensor, here.boxes.tensor)
        assert torch.equal(there.masks.tensor, here.masks.tensor)
    cropped = CroppedMasks.around(moved.masks)
    assert torch.equal(cropped.bitmaps().tensor.cpu(), target.masks.tensor)
    assert torch.equal(Boxes(moved.boxes.tensor).area().cpu(), target.boxes.area())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_has_finite_gradients_and_nearly_the_same_loss(device, precision):
    model, batch = small_model(), [sample(seed=0), sample(seed=1)]
    losses = []
    for where in (torch.device("cpu"), device):
        torch.manual_seed(0)
        moved = copy.deepcopy(model).to(where)
        with autocast(where, "fp32" if where.type == "cpu" and precision == "fp16" else precision):
            loss = moved([one.to(where) for one in batch]).total()
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in moved.parameters())
        losses.append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.3)  # each device samples other boxes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predictions(device, precision):
    model, batch = small_model(score_thresh=0.0).eval(), [sample(seed=0), sample(64, 80, seed=1)]
    with torch.no_grad():
        wanted = [p.instances for p in model(batch)]
        found = [p.instances.to("cpu") for p in optimized(model.to(device), precision)([s.to(device) for s in batch])]
    assert [len(a) for a in wanted] == [len(b) for b in found]
    if precision == "fp32":
        assert agreement(wanted, found)["matched"] > 0.97
