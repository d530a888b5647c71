"""Fixtures of the comparisons with other frameworks."""

import pytest
import torch


@pytest.fixture(scope="module")
def two_threads():
    """The recorded numbers come out of two threads: another number adds up in another order, up to 1.2e-5 a score."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
