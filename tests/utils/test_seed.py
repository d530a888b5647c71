"""Seeds and random states."""

import random

import numpy as np
import pytest
import torch

from detkit.utils import rng_state, seed_everything, set_rng_state


def draw():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item()


def test_the_same_seed_gives_the_same_numbers():
    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first))


def test_states_come_back_through_a_file_that_holds_no_objects(tmp_path):
    draw()  # one Gaussian is drawn and its twin kept by numpy and by Python
    torch.save(rng_state(), tmp_path / "rng.pth")
    expected = draw()
    seed_everything(0)
    set_rng_state(torch.load(tmp_path / "rng.pth", weights_only=True))
    assert draw() == expected


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match=r"seed.*at least 0.*-1"):
        seed_everything(-1)
