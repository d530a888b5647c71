"""The time that is left, and what the bar says where there is little space."""

import copy
import json
import logging
import types

import pytest
import torch

from detkit.engine import EvalHook, Hook, MetricsWriter, ProgressBar
from detkit.engine.hooks import progress_bar as bars
from detkit.engine.metrics import Metrics, Pace
from detkit.utils.memory import peak_memory

LINE = {
    "iteration": 411,
    "total_loss": 1.23456,
    "loss_rpn_cls": 0.1,
    "loss_mask": 0.4567,
    "accuracy": 0.9,
    "lr": 0.0018,
    "data_time": 0.01,
    "step_time": 0.25,
    "eta_seconds": 133.0,
    "max_rss_mb": 2048,
    "max_memory_mb": 512,
}


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_pace_is_a_mean_without_the_processes_first_step():
    pace = Pace()
    pace.add(60.0)
    assert pace.settle() == 60.0  # nothing better is known
    for seconds in (0.2, 0.4, 0.6):
        pace.add(seconds)
    assert pace.settle() == pytest.approx(0.4)
    for seconds in (0.8, 1.0):
        pace.add(seconds)
    assert pace.settle() == pytest.approx(0.6)
    for _ in range(2000):
        pace.add(2.0)
        pace.settle()
    assert pace.settle() == pytest.approx(2.0, rel=1e-3)  # it follows a change


def test_the_pace_does_not_jump_after_a_resume():
    before, after = Pace(), Pace()
    for _ in range(100):
        before.add(0.5)
    before.settle()
    after.load_state_dict(before.state_dict())
    assert after.settle() == 0.5
    after.add(30.0)  # the loader starts
    after.add(0.6)
    assert after.settle() == pytest.approx(0.5, rel=0.01)


def test_evaluations_to_come_are_counted(make_trainer):
    clock = []
    hook = EvalHook(dict, 3)

    class Watch(Hook):
        def after_step(self, trainer):
            hook._seconds = 10.0 if hook._seconds is not None else None
            clock.append(hook.seconds_left(trainer))

    make_trainer(8, [Watch(), hook, Watch()]).train()
    before, after = clock[::2], clock[1::2]  # the evaluation of a step
    assert before == [None, None, None, 20.0, 20.0, 20.0, 10.0, 10.0]
    assert after == [None, None, 20.0, 20.0, 20.0, 10.0, 10.0, 0.0]


def test_an_evaluation_at_the_end_only_is_unknown_until_it_is_over(make_trainer):
    hook = EvalHook(dict)
    trainer = make_trainer(4, [hook])
    assert hook.seconds_left(trainer) is None
    trainer.train()
    assert hook.seconds_left(trainer) == 0.0
    fresh = EvalHook(dict)
    fresh.load_state_dict({"seconds": 7.0})
    assert fresh.seconds_left(make_trainer(4, [fresh])) == 7.0


def test_the_time_left_holds_what_hooks_will_take(make_trainer, tmp_path, caplog):
    class Slow(Hook):
        def seconds_left(self, trainer):
            return 3600.0 if trainer.finished > 2 else None

    with caplog.at_level(logging.INFO, "detkit"):
        make_trainer(4, [ProgressBar(), MetricsWriter(), Slow()]).train()
    etas = [line["eta_seconds"] for line in read(tmp_path / "run" / "metrics.jsonl")]
    assert etas[0] < 60
    assert 3600 <= etas[1] < 3660
    first, second = [r.getMessage() for r in caplog.records if r.getMessage().startswith("step ")]
    assert "+" in first.split("eta ")[1].split()[0]
    assert second.split("eta ")[1].split()[0].startswith("1:00:")


def test_a_bar_has_the_time_left_before_the_first_line_and_an_evaluation_takes_none_of_it(make_trainer, monkeypatch):
    clock, etas = [0.0], {}
    monkeypatch.setattr("detkit.engine.hooks.progress_bar.time", types.SimpleNamespace(monotonic=lambda: clock[0]))

    class Steps(Hook):
        def before_step(self, trainer):
            clock[0] += 60.0

    class Evaluates(Hook):
        def seconds_left(self, trainer):
            return 7200.0 if trainer.finished >= 4 else 0.0

        def after_step(self, trainer):
            etas[trainer.finished] = bar._bar.postfix
            clock[0] += 36000.0 * (trainer.finished == 4)

    bar = ProgressBar(bar=True)
    make_trainer(8, [Steps(), bar, Evaluates()], log_period=4).train()
    assert etas[1] in (None, "")
    assert etas[2] == "eta 06:00"
    assert etas[3] == "eta 05:00"
    assert "loss" in etas[4]
    assert etas[5].startswith("eta 2:00:0")  # the ten hours are over, and in the trainer's own clock steps take no time


def test_windows_go_on_after_a_resume(make_trainer, tmp_path):
    class Stop(Hook):
        def after_step(self, trainer):
            if trainer.finished == 3:
                saved.update(trainer.state_dict(), model=copy.deepcopy(trainer.model.state_dict()))
                raise KeyboardInterrupt

    saved = {}
    make_trainer(6, [MetricsWriter(tmp_path / "straight.jsonl")], log_period=4).train()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(6, [MetricsWriter(tmp_path / "resumed.jsonl"), Stop()], log_period=4).train()
    second = make_trainer(6, [MetricsWriter(tmp_path / "resumed.jsonl")], log_period=4)
    second.model.load_state_dict(saved.pop("model"))
    second.load_state_dict(saved)
    second.train()
    names = ("iteration", "total_loss", "loss_l1", "loss_l2", "off", "lr")
    straight, resumed = (
        [{n: line[n] for n in names} for line in read(tmp_path / f"{name}.jsonl")] for name in ("straight", "resumed")
    )
    assert resumed == straight  # though the window of steps 0 to 3 was cut in two
    assert [line["iteration"] for line in straight] == [3, 5]


def test_a_state_of_other_ranks_leaves_the_window_empty():
    metrics = Metrics(2)
    metrics.load_state_dict({"ranks": [{}, {}], "pace": {"seconds": 1.0, "steps": 3}})
    assert metrics._window == []
    assert metrics.flush(0.1, 10, torch.device("cpu"))["eta_seconds"] == 10.0


def test_peak_memory_is_this_processes_own():
    block = torch.ones(300 * 2**20, dtype=torch.uint8)
    taken = peak_memory(torch.device("cpu"))
    assert taken.keys() == {"max_rss_mb"}
    assert 300 <= taken["max_rss_mb"] < 300_000  # MB, whatever the system counts in
    del block
    assert peak_memory(torch.device("cpu"))["max_rss_mb"] >= taken["max_rss_mb"]


def test_what_does_not_fit_is_left_out_the_least_important_first():
    full = bars.bar_words(LINE, "0:02:13", None)
    assert full == (
        "eta 02:13, loss 1.235, lr 0.0018, 0.25 s/step, data 4%, rss 2.0 GB, gpu 0.5 GB, rpn_cls 0.1, mask 0.457"
    )
    for width in range(len(full) + 3):
        words = bars.bar_words(LINE, "0:02:13", width)
        assert len(words) <= width
        assert full.startswith(words)
    assert bars.bar_words(LINE, "0:02:13", 25) == "eta 02:13, loss 1.235"


def test_a_log_line_says_everything(make_trainer):
    line = bars.log_line(LINE, make_trainer(950), "0:02:13")
    assert line == (
        "step 412/950  eta 0:02:13  total_loss 1.235  loss_rpn_cls 0.1  loss_mask 0.4567  lr 0.0018  "
        "0.250 s/step (data 0.010)  rss 2048 MB  gpu 512 MB  accuracy 0.9"
    )


def test_time_left_is_readable():
    assert bars.time_left(133.4, False) == "0:02:13"
    assert bars.time_left(-3, True) == "0:00:00+"
    assert bars.time_left(200_000, False) == "2 days, 7:33:20"
