"""Copies to the host and back."""

import pytest
import torch

from detkit.layers import HostCopy, to_device

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_copies_are_what_the_tensors_were_when_they_were_asked_for(device):
    numbers, flags = torch.randn(5, 4, device=device, requires_grad=True), torch.tensor([True, False], device=device)
    copies = HostCopy([numbers, flags, numbers[:0]])
    first, second, none = copies.wait()
    assert {first.device.type, second.device.type, none.device.type} == {"cpu"}
    assert not first.requires_grad
    assert torch.equal(first, numbers.detach().cpu())
    assert torch.equal(second, torch.tensor([True, False]))
    assert none.shape == (0, 4)
    assert all(map(torch.equal, copies.wait(), [first, second, none]))
    assert HostCopy([]).wait() == []


@pytest.mark.parametrize("device", DEVICES)
def test_back_on_the_device(device):
    there = to_device(torch.arange(6).reshape(2, 3), torch.device(device))
    assert there.device.type == device
    assert there.tolist() == [[0, 1, 2], [3, 4, 5]]
