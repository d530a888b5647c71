"""Every family of detectors learns and predicts on the device without a tensor of another one."""

import pytest
import torch
from test_combinations import FAST, batch, overrides

from detkit.experiment import load_experiment
from detkit.structures import Prediction


@pytest.mark.parametrize(("detector", "backbone", "neck"), sorted(FAST))
def test_a_step_and_a_prediction(device, detector, backbone, neck):
    model = load_experiment(f"coco/{detector}", overrides(detector, backbone, neck)).build_model(3).to(device)
    samples = [one.to(device) for one in batch()]
    losses = model.train()(samples)
    losses.total().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert {v.device.type for v in (*losses.terms.values(), *losses.metrics.values(), *grads)} == {device.type}
    with torch.no_grad():
        found = model.eval()(samples)
    assert [type(one.to("cpu")) for one in found] == [Prediction, Prediction]
