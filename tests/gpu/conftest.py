"""The device."""

import os
from collections.abc import Iterator

import pytest
import torch
from emulated_device import emulated_gpu


@pytest.fixture
def device() -> Iterator[torch.device]:
    """A GPU, or what DETKIT_TEST_DEVICE names; without either one that is emulated on the CPU."""
    name = os.environ.get("DETKIT_TEST_DEVICE", "cuda")
    if name != "cuda" or torch.cuda.is_available():
        yield torch.device(name)
        return
    with emulated_gpu():
        yield torch.device("cuda", 0)
