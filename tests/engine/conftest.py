"""Fixtures of the regression of toy_training.py."""

import pytest
import torch
from toy_training import Regression, toy_batches

from detkit.engine import Trainer


@pytest.fixture(name="toy_batches")
def _toy_batches():
    return toy_batches


@pytest.fixture
def make_trainer(tmp_path):
    def make(max_iter, hooks=(), batches=toy_batches, schedule=lambda step, max_iter: 1 - step / max_iter, **options):
        model = Regression()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        options = {"output_dir": tmp_path / "run", "log_period": 2, **options}
        return Trainer(model, optimizer, schedule, batches, max_iter, hooks=hooks, **options)

    return make
