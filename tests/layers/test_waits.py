"""Which devices the host waits for."""

import pytest
import torch

from detkit.layers import waits_for


@pytest.mark.parametrize(("device", "expected"), [("cpu", False), ("cuda", True), ("cuda:1", True), ("mps", True)])
def test_the_host_waits_for_every_device_but_itself(device, expected):
    assert waits_for(torch.device(device)) is expected
