"""The device."""

import os

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    """A GPU, or what DETKIT_TEST_DEVICE names; without either the test is skipped."""
    name = os.environ.get("DETKIT_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU; DETKIT_TEST_DEVICE=cpu runs it on the CPU")
    return torch.device(name)
