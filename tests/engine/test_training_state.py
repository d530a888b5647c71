"""A training state knows what it belongs to: data, batch size, optimizer and parameters."""

import collections
import itertools
import logging
import pathlib

import numpy as np
import pytest
import torch
from torch import nn

from detkit.data import AspectRatioSampler, Mapper, Shapes, ShuffleSampler, train_loader
from detkit.engine import ExponentialMovingAverage
from detkit.engine.interfaces import TrainingData
from detkit.engine.trainer import Trainer
from detkit.registry import ConfigError
from detkit.solver import SGD, AdamW
from detkit.structures import Losses, Sample


class Two(nn.Module):
    """Two layers of the same shape, whose losses differ."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.one, self.two = nn.Linear(3, 1), nn.Linear(3, 1)
        self.seen = []

    def forward(self, samples):
        self.seen += [sample.image_id for sample in samples]
        images = torch.stack([s.image.flatten() for s in samples]).float() / 255
        return Losses({"one": self.one(images).square().mean(), "two": (5 + self.two(images)).square().mean()}, {})


def stream(size):
    """Images 0, 1, 2, ... in batches of ``size``, after those of ``earlier``."""

    def batches(start, earlier=()):
        done = sum(number for number, _ in earlier)
        first = sum(number * images for number, images in earlier) + (start - done) * size
        ids = itertools.count(first)
        while True:
            yield [Sample(torch.full((3, 1, 1), 9, dtype=torch.uint8), (1, 1), image_id=next(ids)) for _ in range(size)]

    return batches


def trainer(size=2, steps=4, optimizer=AdamW, identity="a", num_images=12, epochs=None, accumulate=1, **options):
    model = Two()
    data = TrainingData(size, num_images, identity, epochs)
    options = {"lr": 0.01, **options}
    built = optimizer(model, 1.0, **options)
    return Trainer(model, built, lambda *_: 1.0, stream(size), steps, data=data, accumulate=accumulate)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 4), (3, 2)])
def test_another_batch_size_goes_on_with_the_next_image(before, after, caplog):
    one = trainer(before, steps=2)
    one.train()
    two = trainer(after, steps=4)
    two.load_state_dict(one.state_dict())
    assert f"{before} images a step" in caplog.text
    two.train()
    assert two.model.seen == list(range(2 * before, 2 * before + 2 * after))
    three = trainer(before, steps=5)
    three.load_state_dict(two.state_dict())
    three.train()
    assert three.model.seen == list(range(2 * before + 2 * after, 3 * before + 2 * after))


@pytest.mark.parametrize(("size", "accumulate", "steps"), [(1, 1, 10), (4, 1, 4), (1, 4, 4), (2, 1, 6)])
def test_a_run_of_epochs_ends_after_the_images_of_its_epochs(size, accumulate, steps):
    one = trainer(2, steps=6, epochs=1)
    for group in one.optimizer.param_groups:
        group["initial_lr"] = 0.01
    one.max_iter = 2
    one.train()
    two = trainer(size, steps=6, epochs=1, accumulate=accumulate)
    two.load_state_dict(one.state_dict())
    assert two.max_iter == steps
    two.train()
    assert two.model.seen == list(range(4, 12))


@pytest.mark.parametrize("change", [{"identity": "b"}, {"num_images": 13}])
def test_other_data_are_said(change, caplog):
    one = trainer()
    one.train()
    two = trainer(steps=6, **change)
    with caplog.at_level(logging.WARNING, "detkit"):
        two.load_state_dict(one.state_dict())
    assert "training data" in caplog.text
    two.train()
    assert two.finished == 6


@pytest.mark.parametrize(("before", "after"), [(SGD, AdamW), (AdamW, SGD)])
def test_the_state_of_another_optimizer_is_refused(before, after):
    one, two = trainer(optimizer=before), trainer(optimizer=after)
    with pytest.raises(ValueError, match=rf"solver\.optimizer.*was {before.__name__} and is {after.__name__}"):
        two.load_state_dict(one.state_dict())


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_moments_follow_the_names_of_parameters(optimizer):
    key = "momentum_buffer" if optimizer is SGD else "exp_avg"
    one = trainer(optimizer=optimizer, lr_factors={"one": 0.1})
    one.train()
    two = trainer(optimizer=optimizer, lr_factors={"two": 0.1}, weight_decay_bias=0.3)
    two.load_state_dict(one.state_dict())
    for (name, ours), theirs in zip(two.model.named_parameters(), one.model.parameters(), strict=True):
        assert torch.equal(two.optimizer.state[ours][key], one.optimizer.state[theirs][key]), name
    factors = {group["initial_lr"] for group in two.optimizer.param_groups if "two.weight" in group["param_names"]}
    assert factors == {0.001}, "options are those of the config"


def test_a_parameter_that_is_frozen_now_is_named():
    one, two = trainer(), trainer()
    model = Two()
    model.two.bias.requires_grad = False
    two.optimizer = AdamW(model, 1.0, lr=0.01)
    with pytest.raises(ValueError, match=r"other parameters \(two\.bias"):
        two.load_state_dict(one.state_dict())


def test_states_of_before_go_on_by_position(caplog):
    one = trainer()
    one.train()
    state = one.state_dict()
    del state["data"], state["earlier"], state["accumulate"], state["owner"]
    two = trainer(steps=6)
    two.load_state_dict(state)
    assert "does not say" in caplog.text
    two.train()
    assert two.model.seen == [8, 9, 10, 11]
    assert two.optimizer.state[two.model.one.weight]["step"] == 6


@pytest.mark.parametrize("sampler", [ShuffleSampler, AspectRatioSampler])
@pytest.mark.parametrize("sizes", [(4, 2), (3, 5), (2, 6)])
@pytest.mark.parametrize("processes", [1, 2])
def test_samplers_show_no_image_twice_when_the_batch_size_changes(sampler, sizes, processes):
    dataset = Shapes(num_images=60, image_size=(32, 32))
    dataset.image_size = lambda index: (32, 32 + (-1) ** index)
    then, now = sizes

    def seen(size, start, earlier, number):
        parts = [
            train_loader(dataset, Mapper(dataset, []), sampler(dataset, size, 0, rank, processes), 0, start, earlier)
            for rank in range(processes)
        ]
        batches = [list(itertools.islice(iter(p._loader.batch_sampler), number)) for p in parts]
        return [pair for step in zip(*batches, strict=True) for batch in step for pair in batch]

    pairs = seen(then, 0, (), 3) + seen(now, 3 + 0, [(3, then * processes)], 2)
    assert len(pairs) == len(set(pairs)) == (3 * then + 2 * now) * processes
    if sampler is ShuffleSampler:
        expected = ShuffleSampler(dataset, 1, 0, 0, 1)
        assert pairs == [batch[0] for batch in itertools.islice(iter(expected), len(pairs))]


def test_the_state_of_hooks_that_are_gone_is_said(caplog):
    one, two = trainer(), trainer()
    one.hooks = [ExponentialMovingAverage()]
    one.train()
    two.load_state_dict(one.state_dict())
    assert "has the state of ExponentialMovingAverage" in caplog.text


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"seen": collections.deque([1])}, r"\['seen'\]: .* got collections\.deque"),
        ({"sums": [np.zeros(2)]}, r"\['sums'\]\[0\]: .* got numpy\.ndarray"),
        ({"best": np.float64(1)}, r"\['best'\]: .* got numpy\.float64"),
        ({"folder": pathlib.Path("a")}, r"\['folder'\]: .* got pathlib\."),
        ({"call": lambda: 1}, r"\['call'\]: .* got builtins\.function"),
    ],
)
def test_a_hooks_state_is_one_that_a_resume_can_read(state, place):
    hook = ExponentialMovingAverage()
    hook.state_dict = lambda: state
    saving = trainer()
    saving.hooks = [hook]
    with pytest.raises(ConfigError, match=rf"^train\.hooks: ExponentialMovingAverage\.state_dict{place}"):
        saving.state_dict()
