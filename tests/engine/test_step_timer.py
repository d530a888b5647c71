"""Where the time of a step goes: parts made slow on purpose are found slow."""

import itertools
import logging
import re
import time
import types

import pytest

from detkit.engine import EvalHook, Hook, StepTimer
from detkit.engine.hooks import step_timer
from detkit.engine.hooks.step_timer import PARTS

NAP = 0.02
STEPS = 6


class Record(StepTimer):
    """Keeps what the tables were made of."""

    def _report(self):
        self.tables = [*getattr(self, "tables", []), (self.steps, self.seconds)]
        super()._report()


class Naps(Hook):
    def after_step(self, trainer):
        time.sleep(NAP)


def slow(function):
    def napping(*args, **options):
        time.sleep(NAP)
        return function(*args, **options)

    return napping


@pytest.mark.parametrize("part", ["forward", "backward", "hooks", "data"])
def test_a_slow_part_is_found(make_trainer, toy_batches, part):
    timer = Record()
    batches = toy_batches
    if part == "data":

        def batches(start=0):
            for batch in toy_batches(start):
                time.sleep(NAP)
                yield batch

    trainer = make_trainer(STEPS, [timer, Naps()] if part == "hooks" else [timer], batches=batches)
    if part == "forward":
        trainer.model.forward = slow(trainer.model.forward)
    if part == "backward":
        trainer.model.linear.weight.register_hook(slow(lambda grad: grad))
    trainer.train()
    ((steps, seconds),) = timer.tables
    assert steps == STEPS - 1  # without the first
    assert tuple(seconds) == PARTS
    assert seconds[part] >= NAP * steps
    assert all(value > 0 for value in seconds.values())


def test_the_parts_add_up_to_the_step(make_trainer, monkeypatch):
    """On a clock that moves by a second whenever it is read, each part of a step takes one."""
    ticks = itertools.count()
    monkeypatch.setattr(step_timer, "time", types.SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    timer = Record()
    make_trainer(STEPS, [timer]).train()
    assert timer.tables == [(STEPS - 1, dict.fromkeys(PARTS, float(STEPS - 1)))]
    ticks = itertools.count()
    timer = Record()
    make_trainer(STEPS, [timer], accumulate=3).train()  # three times forward and backward a step
    ((_, seconds),) = timer.tables
    assert [seconds[part] / (STEPS - 1) for part in PARTS] == [1, 3, 3, 1, 1]


def test_evaluations_count_as_hooks_and_tables_come_every_period(make_trainer, caplog):
    def evaluate():
        time.sleep(NAP)
        trainer.model(next(iter(trainer.batches_from(0))))
        return {"AP": 1.0}

    timer = Record(period=2)
    trainer = make_trainer(STEPS, [timer, EvalHook(evaluate, 1)])
    with caplog.at_level(logging.INFO, "detkit"):
        trainer.train()
    assert [steps for steps, _ in timer.tables] == [2, 2, 1]
    assert all(seconds["hooks"] >= NAP * steps for steps, seconds in timer.tables)
    tables = [r.getMessage() for r in caplog.records if "where the time" in r.getMessage()]
    assert len(tables) == 3
    shares = [float(x) for x in re.findall(r"([\d.]+)%", tables[0])]
    assert sum(shares[:-1]) == pytest.approx(100, abs=0.3)
    assert shares[-1] == 100


def test_it_lets_go_of_model_and_optimizer(make_trainer):
    trainer = make_trainer(2, [StepTimer()])
    trainer.train()
    assert not trainer.model._forward_hooks
    assert not trainer.model._forward_pre_hooks
    assert not trainer.optimizer._optimizer_step_pre_hooks
