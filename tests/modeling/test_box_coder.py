"""Box coder: against torchvision's, and there and back."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder

from detkit.modeling.box_coder import DeltaBoxCoder


def boxes(n: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=g) * 300
    return torch.cat([corner, corner + 4 + torch.rand(n, 2, generator=g) * 200], dim=1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_equals_torchvision(weights):
    ours, theirs = DeltaBoxCoder(weights=weights), TorchvisionBoxCoder(weights)
    a, b = boxes(50, 0), boxes(50, 1)
    torch.testing.assert_close(ours.encode(a, b), theirs.encode_single(b, a))
    deltas = torch.randn(50, 8) * 3
    torch.testing.assert_close(ours.decode(a, deltas), theirs.decode_single(deltas, a).reshape(50, -1))


def test_decode_undoes_encode():
    coder = DeltaBoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    a, b = boxes(200, 2), boxes(200, 3)
    torch.testing.assert_close(coder.decode(a, coder.encode(a, b)), b, atol=1e-3, rtol=0)


def test_clamp_bounds_the_size_and_can_be_removed():
    reference, deltas = torch.tensor([[0.0, 0.0, 16.0, 16.0]]), torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    assert DeltaBoxCoder().decode(reference, deltas)[0, 2] - 8 == pytest.approx(500, rel=1e-4)
    assert DeltaBoxCoder(max_log_scale=None).decode(reference, deltas)[0, 2] > 10_000
