"""The best weights are kept, a run that does not get better ends, and a metric that is never given is an error."""

import contextlib
import json
import logging
import math
import signal

import pytest
import torch

from detkit.checkpoint import Checkpointer, read_checkpoint, resume
from detkit.engine import (
    BestCheckpoint,
    CheckpointHook,
    EarlyStopping,
    EvalHook,
    ExponentialMovingAverage,
    Hook,
    Interrupted,
    MetricsWriter,
)
from detkit.registry import ConfigError

VALUES = [0.1, 0.3, 0.2, 0.3, 0.35, 0.1, 0.2, 0.3, 0.9]


class Keep(Hook):
    def __init__(self):
        super().__init__()
        self.weights, self.averages = [], []

    def after_step(self, trainer):
        self.weights.append(trainer.model.linear.weight.detach().clone())
        for hook in trainer.hooks:
            if isinstance(hook, ExponentialMovingAverage):
                self.averages.append(hook.average["linear.weight"].clone())


@pytest.fixture
def build(make_trainer, tmp_path):
    """A run whose evaluation after step n gives ``values[n]``, and for averaged weights one less each."""

    def make(*hooks, values=VALUES, max_iter=9, period=1, folder="run"):
        def evaluate():
            value = values[trainer.step]
            averaged = any(isinstance(h, ExponentialMovingAverage) for h in hooks)
            if averaged and not torch.equal(keep.weights[-1], trainer.model.linear.weight):
                value -= 1
            return {"mask": {"AP": value, "AP50": value and 2 * value}}

        keep = Keep()
        checkpointer = Checkpointer(tmp_path / folder)
        ordered = [MetricsWriter(), *hooks, keep, CheckpointHook(checkpointer, period), EvalHook(evaluate, 1)]
        trainer = make_trainer(max_iter, ordered, output_dir=tmp_path / folder)
        resume(checkpointer, trainer.model, trainer)
        return trainer, keep, tmp_path / folder

    return make


def best_weight(folder):
    return read_checkpoint(folder / "model_best.pth").model["linear.weight"]


@pytest.mark.parametrize(("mode", "step"), [("max", 8), ("min", 0)])
def test_the_best_weights_are_kept(build, mode, step):
    trainer, keep, folder = build(BestCheckpoint(metric="mask/AP", mode=mode))
    trainer.train()
    assert torch.equal(best_weight(folder), keep.weights[step])
    assert not torch.equal(best_weight(folder), keep.weights[step - 1])


def test_the_best_of_averages_are_averages(build):
    hooks = [ExponentialMovingAverage(decay=0.5), BestCheckpoint(metric="ema/mask/AP")]
    trainer, keep, folder = build(*hooks, values=VALUES[:6], max_iter=6)
    trainer.train()
    assert torch.equal(best_weight(folder), keep.averages[4])
    assert torch.equal(trainer.model.linear.weight, keep.weights[5])


def test_the_best_value_outlives_a_resume(build, caplog):
    trainer, keep, folder = build(BestCheckpoint(metric="mask/AP"), max_iter=5)
    trainer.train()
    again, _, _ = build(BestCheckpoint(metric="mask/AP"), max_iter=8)
    with caplog.at_level(logging.INFO, "detkit"):
        again.train()
    assert torch.equal(best_weight(folder), keep.weights[4])
    assert "best mask/AP: 0.35 at step 4" in caplog.text
    other, keep, _ = build(BestCheckpoint(metric="mask/AP50"), max_iter=9)
    other.train()
    assert "watched mask/AP (max) before and watches mask/AP50" in caplog.text
    assert torch.equal(best_weight(folder), keep.weights[-1])


@pytest.mark.parametrize(
    ("options", "finished"),
    [
        ({"patience": 1}, 3),  # 0.2 after 0.3
        ({"patience": 2}, 4),  # 0.3 equals the best and beats nothing
        ({"patience": 3}, 8),
        ({"patience": 3, "min_delta": 0.06}, 5),
        ({"patience": 9}, 9),
        ({"patience": 2, "mode": "min"}, 3),
    ],
)
def test_it_stops_when_patience_is_out(build, caplog, options, finished):
    trainer, _, folder = build(EarlyStopping(metric="mask/AP", **options))
    with caplog.at_level(logging.INFO, "detkit"):
        trainer.train()
    assert trainer.finished == finished
    final = read_checkpoint(folder / "model_final.pth").model["linear.weight"]
    assert torch.equal(final, trainer.model.linear.weight)
    assert trainer.results["mask"]["AP"] == VALUES[finished - 1]
    assert (trainer.stop_reason is not None) == (finished < 9) == ("stops early" in caplog.text)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "mask/AP" in line] == list(range(finished))
    assert max(line["iteration"] for line in lines if "total_loss" in line) == finished - 1  # the last window, too


def test_a_run_that_is_asked_to_leave_while_it_stops_early_saves_first(make_trainer, tmp_path):
    """In the evaluation of the last weights, with a config that asks for no checkpoints."""

    class Stop(Hook):
        def stop_reason(self):
            return "enough" if finished() >= 2 else None

    class Leave(Hook):
        def after_stop(self, trainer):
            stopped.append(trainer.finished)
            if len(stopped) == 1:
                raise Interrupted(signal.SIGTERM)

    stopped, checkpointer = [], Checkpointer(tmp_path / "run")

    def make():
        hooks = [Stop(), CheckpointHook(checkpointer, None), Leave()]
        trainer = make_trainer(5, hooks)
        resume(checkpointer, trainer.model, trainer)
        return trainer

    trainer = make()
    finished = lambda: trainer.finished  # noqa: E731
    with pytest.raises(Interrupted):
        trainer.train()
    assert checkpointer.latest().name == "checkpoint_0000001.pth"
    trainer = make()
    trainer.train()
    assert stopped == [2, 2]
    assert trainer.finished == 2


def test_what_stopped_early_says_so_and_goes_on_with_more_patience(build, caplog):
    trainer, _, folder = build(EarlyStopping(metric="mask/AP", patience=2))
    trainer.train()
    before = (folder / "metrics.jsonl").read_text()
    again, _, _ = build(EarlyStopping(metric="mask/AP", patience=2))
    assert again.finished == 4
    assert "mask/AP has not got better than 0.3 (step 1) in 2 evaluations. To go on, raise" in again.stop_reason
    again.train()  # leaves the end that it must have, once more
    assert (again.finished, again.results["mask"]["AP"]) == (4, 0.3)
    assert (folder / "metrics.jsonl").read_text() == before
    longer, _, _ = build(EarlyStopping(metric="mask/AP", patience=3))
    longer.train()
    assert longer.finished == 8
    without, _, _ = build()
    without.train()
    assert without.finished == 9


def test_patience_outlives_a_resume(build):
    trainer, _, _ = build(EarlyStopping(metric="mask/AP", patience=3), max_iter=7)
    trainer.train()
    again, _, _ = build(EarlyStopping(metric="mask/AP", patience=3))
    again.train()
    assert again.finished == 8


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_metric_that_is_no_number_is_no_gain(build, bad):
    trainer, keep, folder = build(
        BestCheckpoint(metric="mask/AP"), EarlyStopping(metric="mask/AP", patience=2), values=[0.1, bad, bad, 0.2]
    )
    trainer.train()
    assert trainer.finished == 3
    assert torch.equal(best_weight(folder), keep.weights[0])


@pytest.mark.parametrize("bad", [None, float("nan"), -math.inf])
def test_before_the_first_number_there_is_nothing_to_beat_and_no_patience_is_used(build, bad, caplog):
    trainer, _, _ = build(EarlyStopping(metric="mask/AP", patience=2), values=[bad] * 4 + [0.2, 0.1, 0.1, 0.1, 0.1])
    trainer.train()
    assert trainer.finished == 7
    assert caplog.text.count("could not be measured") == 1


@pytest.mark.parametrize("metric", ["mask/APs", "recall"])
@pytest.mark.parametrize("hook", [BestCheckpoint, EarlyStopping])
def test_a_metric_that_was_never_measured_is_an_error_at_the_end_that_says_why(make_trainer, tmp_path, hook, metric):
    reasons = {"reasons": {"recall": "no recall without objects"}}
    results = {
        "mask": {"APs": -1, "AP": 0.5, "reasons": {"APs": "no small objects"}},
        "recall": None,
        "gain": -1,
        **reasons,
    }
    watching = hook(metric=metric, **({"patience": 1} if hook is EarlyStopping else {}))
    trainer = make_trainer(3, [MetricsWriter(), watching, EvalHook(lambda: results, 1)], output_dir=tmp_path)
    with pytest.raises(
        ConfigError, match=rf"{hook.__name__}: {metric} could not be measured \(no (small|recall).*Watch"
    ):
        trainer.train()
    assert trainer.finished == 3
    assert not (tmp_path / "model_best.pth").exists()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    evaluation = next(line for line in lines if "gain" in line)
    assert evaluation == {
        "iteration": 0,
        "mask/APs": None,
        "mask/AP": 0.5,
        "recall": None,
        "gain": -1,
    }  # -1 without a reason is a number


@pytest.mark.parametrize("hook", [BestCheckpoint, EarlyStopping])
def test_a_misspelt_metric_is_an_error_at_the_first_evaluation(build, hook):
    options = {"patience": 3} if hook is EarlyStopping else {}
    trainer, _, _ = build(hook(metric="mask/APP", **options))
    with pytest.raises(ConfigError, match=rf"{hook.__name__}: no line.*'mask/APP'; there are mask/AP, mask/AP50"):
        trainer.train()
    assert trainer.finished == 1


def test_a_metric_that_nothing_like_appears_is_warned_of_and_an_error_at_the_end(build, caplog):
    trainer, _, folder = build(EarlyStopping(metric="msk/AP", patience=2))
    with pytest.raises(ConfigError, match=r"'msk/AP'; there are .*loss_l1.*mask/AP50.*total_loss"):
        trainer.train()
    assert caplog.text.count("waiting for it") == 1
    assert (folder / "model_final.pth").is_file()


@pytest.mark.parametrize("value", [0.3, float("nan")])
def test_a_metric_that_was_seen_before_a_resume_is_not_missed(build, value):
    with contextlib.suppress(ConfigError):  # that there was no number
        build(EarlyStopping(metric="mask/AP", patience=9), values=[value] * 9, max_iter=3)[0].train()
    again, _, _ = build(EarlyStopping(metric="mask/AP", patience=9), max_iter=3)
    again.hooks[-1].evaluate = dict  # gives the metric no more
    again.max_iter = 4
    again.train()
    assert again.finished == 4


def test_losses_can_be_watched(build):
    trainer, _, _ = build(EarlyStopping(metric="total_loss", mode="min", patience=1, min_delta=1e9))
    trainer.train()
    assert trainer.finished == 4  # a line every two steps
    assert trainer.results["mask"]["AP"] == VALUES[3]
