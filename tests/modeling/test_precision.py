"""Half precision: the same losses and gradients to its rounding, boxes and weights in float32."""

import pytest
import torch
from small import sample, small_model

from detkit.engine.step import autocast
from detkit.layers import roi_align
from detkit.modeling.sampling import Sampling

CPU = torch.device("cpu")
SAMPLES = [sample(64, 96, num, seed) for seed, num in enumerate((3, 2))]


def losses_and_gradients(precision):
    torch.manual_seed(1)
    model = small_model()
    model.proposal_generator.sampling = Sampling(100_000, 1.0)
    with autocast(CPU, precision):
        losses = model(SAMPLES)
    losses.total().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert all(term.dtype == torch.float32 for term in losses.terms.values())
    with torch.inference_mode(), autocast(CPU, precision):
        found = [prediction.instances for prediction in model.eval()(SAMPLES)]
    assert all(f.boxes.dtype == torch.float32 for f in found)
    assert all(f.scores.dtype == torch.float32 for f in found)
    return losses.terms, torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize(("precision", "digits"), [("bf16", 8), ("fp16", 11)])
def test_half_precision_is_close_to_its_rounding(precision, digits):
    """A number has ``digits`` binary ones; the losses may be off by a few roundings, the gradients by an angle."""
    (half, gradients), (full, wanted) = losses_and_gradients(precision), losses_and_gradients("fp32")
    for name, value in full.items():
        assert half[name].item() == pytest.approx(value.item(), rel=2.0 ** (2 - digits)), name
    assert torch.cosine_similarity(gradients, wanted, dim=0) > 0.99


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_regions_are_placed_in_full_precision(layout):
    """On a ramp a region's value is where it lies: 8 binary digits of a place near 500 are pixels."""
    ramp = (torch.arange(120.0) - 112).expand(1, 2, 120, 120).contiguous(memory_format=layout)  # small at the end
    end = 8.0 * 112
    rois = torch.tensor([[0.0, end - 3.3, 10.0, end + 20.7, 100.0]])
    wanted = roi_align(ramp, rois, 7, 1 / 8)
    found = roi_align(ramp.bfloat16(), rois, 7, 1 / 8)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=0.02)
