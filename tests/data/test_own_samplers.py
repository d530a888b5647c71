"""Samplers of a user's own that break their contract."""

from typing import Any

import pytest
import torch
from tiny_detector import tiny_experiment

from detkit.config import ConfigError, Recipe
from detkit.data import Sampler
from detkit.engine.step import TrainingStep

NOTHING: list[tuple[int, int]] = []
MISTAKES = [0, [0, 1], NOTHING, [(0, 99)], [(0, -1)], [(0, 0, 0)], [(0, torch.tensor(1))], [(0, 1.0)], "images"]


class Own(Sampler):
    """Gives what its class says."""

    batches: Any

    def __iter__(self):
        return self.batches


def first_batch(batches, num_workers):
    data = tiny_experiment(f"data.num_workers={num_workers}").data
    data.sampler = Recipe(type("Own", (Own,), {"batches": batches, "__module__": __name__}))
    return next(iter(data.train()))


@pytest.mark.parametrize("batch", MISTAKES, ids=str)
def test_a_batch_that_is_none_is_named(batch):
    words = r"^Own: expected batches, each a list of \(epoch, index\), ints, index below 8, got .*test_own_samplers"
    with pytest.raises(ConfigError, match=words):
        first_batch([batch], 0)


def test_a_batch_that_is_none_is_named_where_workers_would_read_it():
    with pytest.raises(ConfigError, match="Own: expected batches"):
        first_batch([[0, 1]], 1)


@pytest.mark.parametrize("made", [list, iter])
def test_the_batches_of_a_sampler_may_be_any_iterable(made):
    assert len(first_batch(made([[(0, 1), (2, 3)]]), 0)) == 2


def test_a_sampler_that_ends_is_told_so():
    step = TrainingStep(torch.nn.Linear(1, 1), None, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"data\.sampler: its batches ended after 1 steps"):
        step.fetch(iter([]), "1 steps")
