"""What a GPU refuses, the emulated one refuses too."""

import pytest
import torch

MIXED = {
    "sum": lambda here, there: here + there,
    "an index on the GPU into the CPU's": lambda here, there: here[there.long()],
    "a number of the CPU in a stack": lambda here, there: torch.stack([there[0], here[0]]),
    "a row of the CPU in a list": lambda here, there: torch.cat([there, here]),
    "an array": lambda here, there: there.numpy(),
    "in place": lambda here, there: there.add_(here),
    "the CPU's random numbers": lambda here, there: torch.randperm(3, device=there.device, generator=torch.Generator()),
}


@pytest.mark.parametrize("mixed", MIXED.values(), ids=MIXED)
def test_two_devices_in_one_operation_are_refused(device, mixed):
    if device.type == "cpu":
        pytest.skip("it is one device")
    with pytest.raises((RuntimeError, TypeError)):
        mixed(torch.ones(3), torch.ones(3, device=device))


def test_numbers_and_copies_and_indices_of_the_cpu_join(device):
    there = torch.ones(3, device=device)
    there[torch.tensor([True, False, True])] = 2.0
    there[0] = torch.tensor(5.0)
    assert (there * torch.tensor(2.0)).tolist() == [10.0, 2.0, 4.0]
    assert torch.empty(3).copy_(there).tolist() == there.cpu().tolist() == [5.0, 1.0, 2.0]
