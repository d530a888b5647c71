"""Colours of classes: stable, and told apart, also where there are many."""

import numpy as np
import pytest

from detkit.visualization import palette
from detkit.visualization.colors import oklab


def distances(num):
    places = oklab(palette(num))
    return np.linalg.norm(places[:, None] - places[None], axis=2) + 9 * np.eye(num)


def test_a_colour_is_the_same_whatever_the_number_of_classes():
    many = palette(1000)
    assert palette(0).shape == (0, 3)
    for num in (1, 7, 64, 65, 300):
        assert (palette(num) == many[:num]).all()


@pytest.mark.parametrize(("num", "least", "neighbours"), [(20, 0.1, 0.2), (80, 0.06, 0.12), (1000, 0.02, 0.05)])
def test_colours_are_told_apart(num, least, neighbours):
    """A difference of about 0.02 in Oklab is just seen."""
    table = distances(num)
    assert table.min() > least
    assert min(table[i, i + 1] for i in range(num - 1)) > neighbours


def test_there_are_colours_for_any_number_of_classes():
    assert palette(25_000).shape == (25_000, 3)
