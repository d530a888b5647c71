"""A run that is stopped anywhere and goes on ends as the run that never stopped: to the last bit."""

import contextlib

import pytest
from resume_helpers import STEPS, Die, Kill, Signal, loader, outcome, start

from detkit.checkpoint import Checkpointer
from detkit.engine import Interrupted


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return outcome(folder, start(folder))


@pytest.mark.parametrize("step", range(STEPS))
def test_killed_before_any_step(tmp_path, straight, step):
    with pytest.raises(Kill):
        start(tmp_path, first=[Die(before_step=step)])
    assert outcome(tmp_path, start(tmp_path)) == straight


@pytest.mark.parametrize("step", range(STEPS))
def test_killed_after_checkpoint_and_evaluation_of_any_step(tmp_path, straight, step):
    with pytest.raises(Kill):
        start(tmp_path, last=[Die(after_step=step)])
    assert outcome(tmp_path, start(tmp_path)) == straight


@pytest.mark.parametrize("step", range(STEPS))
def test_asked_to_leave_in_any_step(tmp_path, straight, step):
    with pytest.raises(Interrupted):
        start(tmp_path, first=[Signal(step)])
    assert Checkpointer(tmp_path).latest().name == f"checkpoint_{step:07d}.pth"
    assert outcome(tmp_path, start(tmp_path)) == straight


def test_killed_in_every_step_with_a_checkpoint_a_step(tmp_path):
    (tmp_path / "a").mkdir()
    expected = outcome(tmp_path / "a", start(tmp_path / "a", period=1))
    for step in range(STEPS):
        with pytest.raises(Kill):
            start(tmp_path / "b", period=1, **{("last", "first")[step % 2]: [Die(after_step=step)]})
    assert outcome(tmp_path / "b", start(tmp_path / "b", period=1)) == expected


def test_asked_to_leave_again_and_again(tmp_path, straight):
    for step in range(STEPS):
        with contextlib.suppress(Interrupted):
            start(tmp_path, first=[Signal(step)])
    assert outcome(tmp_path, start(tmp_path)) == straight


@pytest.fixture(scope="module")
def straight_by_loader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    return outcome(folder, start(folder, stream=loader(0)))


def test_workers_may_change_on_the_way(tmp_path, straight_by_loader):
    for step in range(STEPS):
        with contextlib.suppress(Interrupted):
            start(tmp_path, first=[Signal(step)], stream=loader(2 * (step % 2)))
    assert outcome(tmp_path, start(tmp_path, stream=loader(2))) == straight_by_loader


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", range(STEPS))
def test_killed_in_any_step_with_a_loader(tmp_path, straight_by_loader, workers, step):
    with pytest.raises(Kill):
        start(tmp_path, first=[Die(before_step=step)], stream=loader(workers))
    assert outcome(tmp_path, start(tmp_path, stream=loader(workers))) == straight_by_loader
